//! The closed set of routes that requests are counted and timed under.
//!
//! It does not know paths or methods: the door says which route a request took.

macro_rules! routes {
    ($($(#[$doc:meta])* $name:ident $text:literal,)*) => {
        /// What a request asked for; a label of the metrics.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Route {
            $($(#[$doc])* $name,)*
        }

        impl Route {
            /// Every route, in the order of their definition.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its name in labels and statistics.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

routes! {
    /// `POST /api/v1/features/online`.
    Online "online",
    /// `POST /api/v1/features/batch`.
    Batch "batch",
    /// `GET /api/v1/features/{type}/{id}`.
    Entity "entity",
    /// `POST /api/v1/features/historical`.
    Historical "historical",
    /// `POST /api/v1/features/push`.
    Push "push",
    /// `POST /api/v1/features/register`.
    Register "register",
    /// `GET /api/v1/features`.
    Features "features",
    /// `GET /api/v1/features/{view or reference}`.
    Feature "feature",
    /// `GET` and `DELETE` of `/api/v1/views`.
    Views "views",
    /// `GET /api/v1/entities` and the listing of one type.
    Entities "entities",
    /// `GET /api/v1/entities/{type}/count`.
    EntityCount "entity_count",
    /// `DELETE /api/v1/entities/{type}/{id}` and `GET /api/v1/erasures/{id}`.
    Erasures "erasures",
    /// `GET /api/v1/services`.
    Services "services",
    /// `DELETE /api/v1/cache/invalidate/{id}`.
    Cache "cache",
    /// `POST /api/v1/load`.
    Load "load",
    /// `/api/v1/backups` and what is below it.
    Backup "backup",
    /// `GET /api/v1/stats`.
    Stats "stats",
    /// `GET /health`.
    Health "health",
    /// `GET /ready`.
    Ready "ready",
    /// `GET /metrics`.
    Metrics "metrics",
    /// `GET /openapi.json`.
    OpenApi "openapi",
    /// `GET /docs`.
    Docs "docs",
    /// Everything else, unknown paths included.
    Other "other",
}
