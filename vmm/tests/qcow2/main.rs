//! What becomes of qcow2 images that are written to, as QEMU's programs find them: [`tables`], [`queues`] and [`killed`].
//!
//! A program of its own, because who starts others shares its locks with them for a moment.

mod killed;
mod queues;
mod tables;
