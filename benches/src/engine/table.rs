//! [`Table`]: the times beside each other, and beside what is asked of the software CPU.

use std::fmt;

use crate::median;

/// The workloads, and how many times slower than on the host each may be.
pub const ASKED: [(&str, f64); 13] = [
    ("integer", 1.1),
    ("qsort", 2.6),
    ("sha256", 2.1),
    ("fp", 1.9),
    ("sse2", 1.8),
    ("memcpy", 1.6),
    ("chase", 1.3),
    ("icall", 1.7),
    ("syscall", 1.4),
    ("fork", 2.2),
    ("pipe", 1.3),
    ("fault", 1.8),
    ("file", 2.3),
];

/// How many times as fast as TCG, in the geometric mean: at least that.
const ASKED_MEAN: f64 = 4.0;

/// The workloads' names, for a message.
pub fn names() -> String {
    ASKED.map(|(name, _)| name).join(", ")
}

/// The shortest time, if there is one: of a fixed piece of work, what disturbs it only ever adds. (The same pointers are followed in
/// 18 to 190 ns each on one host, by one program, as its neighbours leave it room in the cache.)
pub fn best_of(times: impl Iterator<Item = f64>) -> Option<f64> {
    times.min_by(f64::total_cmp)
}

/// Whether two more times confirm the shortest one, to a twentieth: less may be but the least bad moment that the host has had so far.
pub fn is_confirmed(times: impl Iterator<Item = f64>) -> bool {
    let mut times: Vec<f64> = times.collect();
    times.sort_unstable_by(f64::total_cmp);
    matches!(times[..], [best, _, third, ..] if third <= best * 1.05)
}

/// The median, if there is something to take it of.
pub fn median_of(values: Vec<f64>) -> Option<f64> {
    if values.is_empty() { None } else { Some(median(values)) }
}

/// A number, or a dash where there is none.
pub fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

/// A workload's times, in nanoseconds an operation.
pub struct Row {
    /// The workload.
    pub name: &'static str,
    /// How many times slower than the host Unibody may be.
    pub asked: f64,
    /// On the host.
    pub host: Option<f64>,
    /// In Unibody's guest.
    pub unibody: Option<f64>,
    /// In QEMU's guest.
    pub qemu: Option<f64>,
}

impl Row {
    /// How many times slower than the host Unibody is.
    fn slowdown(&self) -> Option<f64> {
        ratio(self.unibody, self.host)
    }

    /// How many times faster than TCG Unibody is.
    fn speed(&self) -> Option<f64> {
        ratio(self.qemu, self.unibody)
    }
}

fn ratio(of: Option<f64>, to: Option<f64>) -> Option<f64> {
    Some(of? / to?)
}

/// The geometric mean: what ratios are summed up by. There is none of nothing.
fn geometric_mean(values: &[f64]) -> Option<f64> {
    if values.is_empty() {
        return None;
    }
    let logarithms: f64 = values.iter().map(|value| value.ln()).sum();
    Some((logarithms / values.len() as f64).exp())
}

/// All rows, with a summary.
pub struct Table {
    /// In the order in which they are printed.
    pub rows: Vec<Row>,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:8} | {:>10} | {:>10} | {:>10} | {:>12} | {:>9} | {:>5} | {:>12}",
            "workload",
            "host ns",
            "unibody ns",
            "qemu ns",
            "unibody/host",
            "qemu/host",
            "asked",
            "qemu/unibody"
        )?;
        for row in &self.rows {
            writeln!(
                f,
                "{:8} | {:>10} | {:>10} | {:>10} | {:>12} | {:>9} | {:>5.1} | {:>12}",
                row.name,
                number(row.host, 1),
                number(row.unibody, 1),
                number(row.qemu, 1),
                number(row.slowdown(), 2),
                number(ratio(row.qemu, row.host), 2),
                row.asked,
                number(row.speed(), 2)
            )?;
        }
        let speeds: Vec<f64> = self.rows.iter().filter_map(Row::speed).collect();
        writeln!(
            f,
            "against TCG's speed: {} times (geometric mean of {} workloads; asked: at least {ASKED_MEAN})",
            number(geometric_mean(&speeds), 2),
            speeds.len()
        )?;
        let slower = self.rows.iter().filter(|row| row.slowdown().is_none_or(|by| by > row.asked));
        let slower: Vec<&str> = slower.map(|row| row.name).collect();
        let slower = if slower.is_empty() { "none".to_owned() } else { slower.join(", ") };
        writeln!(f, "slower than asked, against the host: {slower}")
    }
}

#[cfg(test)]
mod tests {
    use super::{Row, Table, best_of, geometric_mean, is_confirmed, median_of, number};

    #[test]
    fn a_mean_of_ratios_is_the_same_from_both_sides() {
        let mean = geometric_mean(&[2.0, 8.0]).expect("there are some");
        assert!((mean - 4.0).abs() < 1e-9, "{mean}");
        let inverse = geometric_mean(&[0.5, 0.125]).expect("there are some");
        assert!((mean * inverse - 1.0).abs() < 1e-9, "{inverse}");
        assert_eq!(geometric_mean(&[]), None);
    }

    #[test]
    fn ratios_are_of_the_times_that_are_there() {
        let row =
            |unibody, qemu| Row { name: "chase", asked: 1.3, host: Some(10.0), unibody, qemu };
        let whole = row(Some(20.0), Some(60.0));
        assert_eq!(whole.slowdown(), Some(2.0));
        assert_eq!(whole.speed(), Some(3.0));
        let failed = row(None, Some(60.0));
        assert_eq!((failed.slowdown(), failed.speed()), (None, None));
        let text = Table { rows: vec![whole, failed] }.to_string();
        assert!(text.contains("3.00 times (geometric mean of 1 workloads"), "{text}");
        assert!(text.contains("slower than asked, against the host: chase, chase"), "{text}");
        assert!(text.contains("|          - |       60.0 |"), "{text}");
    }

    #[test]
    fn one_good_moment_confirms_nothing() {
        let confirmed = |times: &[f64]| is_confirmed(times.iter().copied());
        assert!(confirmed(&[30.0, 10.0, 10.4, 10.2]));
        assert!(!confirmed(&[10.0, 30.0, 10.6, 10.1]));
        assert!(!confirmed(&[10.0, 10.1]) && !confirmed(&[]));
    }

    #[test]
    fn what_is_not_there_is_a_dash() {
        assert_eq!(number(best_of([].into_iter()), 2), "-");
        assert_eq!(number(best_of([3.0, 1.0, 2.0].into_iter()), 2), "1.00");
        assert_eq!(number(median_of(vec![]), 2), "-");
        assert_eq!(number(median_of(vec![3.0, 1.0, 2.0]), 2), "2.00");
    }
}
