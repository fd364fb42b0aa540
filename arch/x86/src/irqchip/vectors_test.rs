//! Tests of [`super::vectors`].

use super::vectors::Vectors;

use selftest::{cases, check, check_eq};

cases! {
    fn every_vector_goes_in_and_out() {
        let mut set = Vectors::new();
        for vector in 0..=255 {
            check!(!set.contains(vector));
            set.insert(vector);
            check!(set.contains(vector));
            check_eq!(set.highest(), Some(vector));
        }
        for vector in (0..=255).rev() {
            check_eq!(set.highest(), Some(vector));
            set.remove(vector);
            check!(!set.contains(vector));
        }
        check!(set.is_empty());
        check_eq!(set.highest(), None);
    }

    fn words_are_the_registers_form() {
        let mut set = Vectors::new();
        set.set(0x31, true);
        set.set(0xff, true);
        check_eq!(set.word(1), 1 << 17);
        check_eq!(set.word(7), 1 << 31);
        check_eq!(set.word(0), 0);
        let mut copy = Vectors::new();
        for n in 0..Vectors::WORDS {
            copy.set_word(n, set.word(n));
        }
        check_eq!(copy, set);
        copy.set_word(1, 0);
        copy.set(0xff, false);
        check!(copy.is_empty());
    }
}
