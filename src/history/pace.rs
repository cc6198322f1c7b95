//! How fast background work on history may go.
//!
//! It does not know the work, nor a clock: whoever starts the work decides.

/// Asked between small slices of work.
pub trait Pace {
    /// So many bytes were read or written since the last call. Waits as long as the budget wants;
    /// false means that the work is to be given up.
    fn worked(&mut self, bytes: u64) -> bool;
}
