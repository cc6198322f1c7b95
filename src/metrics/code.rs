//! The stable codes a refused request answers with, and the HTTP status of each.
//!
//! It does not know what went wrong in a given request, nor how the answer is written.

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident $text:literal $status:literal,)*) => {
        /// Why a request was refused; the `code` of the problem JSON and a label of the metrics.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Code {
            $($(#[$doc])* $name,)*
        }

        impl Code {
            /// Every code, in the order of their definition.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The code as it stands in answers and labels, such as `QUEUE_FULL`.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// The HTTP status it goes with.
            pub const fn status(self) -> u16 {
                match self {
                    $(Self::$name => $status,)*
                }
            }
        }
    };
}

codes! {
    /// The request cannot be read at all.
    MalformedRequest "MALFORMED_REQUEST" 400,
    /// A value does not fit its type.
    InvalidValue "INVALID_VALUE" 400,
    /// An event time lies further ahead than `limits.max_future`.
    EventTimeInFuture "EVENT_TIME_IN_FUTURE" 400,
    /// A bare feature name that two views of the entity have.
    AmbiguousFeature "AMBIGUOUS_FEATURE" 400,
    /// A reference needs an entity that was not given.
    MissingEntity "MISSING_ENTITY" 400,
    /// The same reference twice in one request.
    DuplicateFeature "DUPLICATE_FEATURE" 400,
    /// An as-of time older than what retention kept.
    BelowRetentionFloor "BELOW_RETENTION_FLOOR" 400,
    /// No such entity type.
    UnknownEntityType "UNKNOWN_ENTITY_TYPE" 404,
    /// No such view or version.
    UnknownView "UNKNOWN_VIEW" 404,
    /// No such feature.
    UnknownFeature "UNKNOWN_FEATURE" 404,
    /// No such service.
    UnknownService "UNKNOWN_SERVICE" 404,
    /// No such erasure.
    UnknownErasure "UNKNOWN_ERASURE" 404,
    /// The entity has no row.
    EntityNotFound "ENTITY_NOT_FOUND" 404,
    /// No such path.
    NoSuchRoute "NO_SUCH_ROUTE" 404,
    /// The path exists, the method does not.
    MethodNotAllowed "METHOD_NOT_ALLOWED" 405,
    /// The definition contradicts one that stands; a new version is needed.
    IncompatibleDefinition "INCOMPATIBLE_DEFINITION" 409,
    /// Something else still uses it.
    InUse "IN_USE" 409,
    /// `If-Match` names another sequence than the registry's.
    SequenceMismatch "SEQUENCE_MISMATCH" 409,
    /// Past one of the limits; the answer names it and its configuration key.
    LimitExceeded "LIMIT_EXCEEDED" 413,
    /// An idempotency key seen with another body.
    IdempotencyMismatch "IDEMPOTENCY_MISMATCH" 422,
    /// The server failed; the detail says whether something was written.
    Internal "INTERNAL" 500,
    /// The write queue is full.
    QueueFull "QUEUE_FULL" 503,
    /// The server is still recovering.
    NotReady "NOT_READY" 503,
    /// The server is shutting down.
    Draining "DRAINING" 503,
    /// Too much at once.
    Overloaded "OVERLOADED" 503,
    /// The clock stands too far behind the last arrival.
    ClockBehind "CLOCK_BEHIND" 503,
    /// A sync failed; writes stay stopped until a restart.
    WritesStopped "WRITES_STOPPED" 503,
    /// The deadline of the request passed.
    DeadlineExceeded "DEADLINE_EXCEEDED" 504,
    /// The disk is full; nothing was written.
    DiskFull "DISK_FULL" 507,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_unique_and_statuses_are_errors() {
        for (i, code) in Code::ALL.iter().enumerate() {
            assert_eq!(*code as usize, i);
            assert!((400..600).contains(&code.status()), "{code:?}");
            assert!(!Code::ALL[..i].iter().any(|other| other.as_str() == code.as_str()));
        }
    }
}
