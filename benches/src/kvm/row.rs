//! [`Row`]: a number beside another's, and beside what is asked for.

use std::fmt;

/// What the columns are.
pub const HEAD: &str = "                                         |       unibody |                        other | ratio | asked: at most";

/// What is asked for.
#[derive(Clone, Copy)]
pub enum Asked {
    /// At most so many times the other's.
    Ratio(f64),
    /// At most so many.
    Value(f64),
}

/// What was measured.
#[derive(Clone, Copy)]
pub struct Row {
    what: &'static str,
    unit: &'static str,
    unibody: f64,
    other: Option<(&'static str, f64)>,
    asked: Option<Asked>,
}

impl Row {
    /// Unibody's number.
    pub fn new(what: &'static str, unit: &'static str, unibody: f64) -> Self {
        Self { what, unit, unibody, other: None, asked: None }
    }

    /// With another's, whose name is given.
    pub fn beside(self, name: &'static str, value: f64) -> Self {
        Self { other: Some((name, value)), ..self }
    }

    /// With what is asked for.
    pub fn asked(self, asked: Asked) -> Self {
        Self { asked: Some(asked), ..self }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, unit, unibody, other, asked } = self;
        let number = |value: f64| format!("{value:.1} {unit}");
        let (other, ratio) = match other {
            Some((name, value)) => {
                (format!("{name} {}", number(*value)), format!("{:.3}", unibody / value))
            }
            None => ("-".into(), "-".into()),
        };
        let asked = match asked {
            Some(Asked::Ratio(ratio)) => format!("ratio {ratio}"),
            Some(Asked::Value(value)) => number(*value),
            None => "-".into(),
        };
        write!(f, "{what:40} | {:>13} | {other:>28} | {ratio:>5} | {asked}", number(*unibody))
    }
}

#[cfg(test)]
mod tests {
    use super::{Asked, Row};

    #[test]
    fn a_number_is_beside_what_is_asked_for() {
        let row = Row::new("a read", "ns", 30.0);
        let of = |row: Row| row.to_string().split('|').map(|cell| cell.trim().to_owned()).collect();
        let cells: Vec<String> = of(row.beside("qemu", 60.0).asked(Asked::Ratio(0.7)));
        assert_eq!(cells, ["a read", "30.0 ns", "qemu 60.0 ns", "0.500", "ratio 0.7"]);
        let cells: Vec<String> = of(row.asked(Asked::Value(8.0)));
        assert_eq!(cells, ["a read", "30.0 ns", "-", "-", "8.0 ns"]);
    }
}
