//! The schema of a request whose fields are read in parts: what an interface's own type reads, and what all share.

/// A request whose fields are read in parts, and its schema, which has those of all parts.
macro_rules! requests {
    ($($(#[$doc:meta])* $name:ident { $($part:ident: $kind:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(serde::Deserialize, utoipa::ToSchema)]
        #[expect(dead_code, reason = "only its schema is wanted: the parts are read one by one")]
        pub(in crate::server::api) struct $name { $(#[serde(flatten)] $part: $kind),* }
    )*};
}

pub(super) use requests;
