//! Finds where things in order pass a bound, near where it was found last.
//!
//! It does not know what is in order.

/// The first index from `low` on, up to `end`, of which `is_below` does not hold; it holds of all
/// before that. Takes growing steps first, since it is mostly near.
pub(super) fn first_not_below(low: usize, end: usize, is_below: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut step) = (low, 1);
    let mut high = loop {
        let probe = low + step - 1;
        if probe >= end {
            break end;
        }
        if !is_below(probe) {
            break probe;
        }
        low = probe + 1;
        step *= 2;
    };
    while low < high {
        let middle = low.midpoint(high);
        if is_below(middle) { low = middle + 1 } else { high = middle }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_found_from_wherever_the_search_begins() {
        for end in 0..40 {
            for bound in 0..=end {
                for low in 0..=bound {
                    assert_eq!(first_not_below(low, end, |index| index < bound), bound);
                }
            }
        }
    }
}
