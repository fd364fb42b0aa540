//! Guest programs, by what they nail down.

mod access_rights;
mod code;
mod debug;
mod exceptions;
mod modes;
mod page_tables;
