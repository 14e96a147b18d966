//! The row of a node that shares the registry with others. Pure.

use super::Life;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeRow {
    pub life: Life,
    /// Of the machine, for people.
    pub ip: String,
    pub role: String,
    pub phase: String,
    pub version: String,
    /// host:port where other nodes reach its gRPC.
    pub grpc: String,
    /// URL where clients reach its HTTP.
    pub http: String,
    /// How many claims and ends it has written: others look through the broadcasts when that grows.
    pub changes: u64,
    /// Raised by its node each second.
    pub beat: u64,
    /// Raised by others who hear the node while its beat stands still: it is cut off from the registry, not dead.
    pub vouched: u64,
    /// The database's clock; for people, and for the row's removal in the end.
    pub updated_ms: i64,
}
