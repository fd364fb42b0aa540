//! The instructions that users may execute on the software CPU against the processor that it runs on.
//!
//! A seed stands for a [`case::Case`]: a block of one to eight instructions ([`forms`],
//! [`operands`], [`mod@generate`]) and the registers ([`vector`]: those of x87, SSE and AVX) and memory that it
//! starts with. It is executed natively ([`host`]) and by the engine ([`guest`]), once interpreted and once
//! translated, at the same addresses ([`layout`]), and what came of
//! it is compared ([`mod@compare`]), as far as it is not left to the processor ([`latitude`]): registers,
//! defined flags, memory, and the exception with its error code, RIP and CR2. What differs is made
//! smaller and printed ([`mod@bench`]). [`mod@sweep`] does so with many seeds; [`coverage`] says what of the
//! instruction set is tested.

#![deny(unsafe_code)]

pub mod bench;
pub mod case;
pub mod compare;
pub mod coverage;
pub mod forms;
pub mod generate;
pub mod guest;
pub mod host;
pub mod latitude;
pub mod layout;
pub mod operands;
pub mod random;
pub mod sweep;
pub mod vector;
pub mod vendor;
