//! Guest programs, by what they nail down.

mod access_rights;
mod exceptions;
mod page_tables;
