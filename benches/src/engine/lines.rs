//! The lines that the program prints: [`workload`] and [`speedup`].
//!
//! They come over a console that the kernel writes to as well, perhaps in the same line.

/// A workload's name and its nanoseconds an operation.
pub fn workload(line: &str) -> Option<(&str, f64)> {
    let mut words = after(line, "workload ")?;
    Some((words.next()?, positive(words.next()?)?))
}

/// How much more two processes did than one.
pub fn speedup(line: &str) -> Option<f64> {
    positive(after(line, "speedup ")?.next()?)
}

fn after<'a>(line: &'a str, start: &str) -> Option<std::str::SplitWhitespace<'a>> {
    let (_, rest) = line.split_once(start)?;
    Some(rest.split_whitespace())
}

/// A time of 0 is none, and a ratio to it says nothing.
fn positive(word: &str) -> Option<f64> {
    word.parse().ok().filter(|value: &f64| value.is_finite() && *value > 0.0)
}

#[cfg(test)]
mod tests {
    use super::{speedup, workload};

    #[test]
    fn a_line_is_found_among_the_kernels() {
        assert_eq!(workload("workload qsort 253637.6328"), Some(("qsort", 253_637.632_8)));
        assert_eq!(
            workload("[    1.234] random: crng init workload fork 12 "),
            Some(("fork", 12.0))
        );
        assert_eq!(workload("\u{1b}[0mworkload icall 1.5\r"), Some(("icall", 1.5)));
        assert_eq!(speedup("speedup 1.93\r\n"), Some(1.93));
    }

    #[test]
    fn half_a_line_and_nonsense_are_none() {
        for line in [
            "",
            "workload",
            "workload ",
            "workload qsort",
            "workload qsort [    2.5] usb",
            "workload qsort 0.0000",
            "workload qsort -3",
            "workload qsort inf",
            "workload qsort nan",
            "no such workload: 'x'",
        ] {
            assert_eq!(workload(line), None, "{line}");
        }
        assert_eq!(speedup("speedup up"), None);
        assert_eq!(speedup("speedup"), None);
    }
}
