//! Processor time, which other work on the machine disturbs less than the clock.
//!
//! It does not know what is measured.

/// Processor time of all threads so far. The kernel counts it in hundredths of a second here.
pub(crate) fn seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    // The name, second of all, is in parentheses and may hold spaces.
    let (_, numbers) = stat.rsplit_once(") ").expect("a name in parentheses");
    let ticks = |index| -> f64 {
        let field = numbers.split(' ').nth(index).and_then(|field| field.parse().ok());
        field.expect("a number of ticks")
    };
    (ticks(11) + ticks(12)) / 100.0
}
