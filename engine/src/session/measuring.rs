//! What stands in for a disk and a router, so that the expert store can be measured on any machine.

use crate::experts::Trace;
use std::sync::Arc;

/// Another machine's disk, another model's routing.
#[derive(Clone, Debug, Default)]
pub struct Measuring {
    /// Bytes per second that reads of experts are slowed down to, as if one disk served them one after the other.
    pub disk_rate: Option<f64>,
    /// Reads that leave no copy in the page cache, also where it has room.
    pub direct_reads: bool,
    /// Choices of experts by position, in the place of the router's.
    pub route: Option<Arc<Trace>>,
}
