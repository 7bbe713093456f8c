//! Numbers as Prometheus scrapes them: OpenMetrics text.

use std::path::Path;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::error::{Error, Result};

/// A name, what it means, and the number.
pub(crate) type Number = (&'static str, &'static str, u64);

pub(crate) fn register(registry: &mut Registry, counters: &[Number], gauges: &[Number]) {
    for &(name, help, number) in counters {
        let counter: Counter = Counter::default();
        counter.inc_by(number);
        registry.register(name, help, counter);
    }
    for &(name, help, number) in gauges {
        let gauge: Gauge = Gauge::default();
        gauge.set(i64::try_from(number).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    }
}

/// The text of the registry of what is at `path`.
pub(crate) fn encode(registry: &Registry, path: &Path) -> Result<String> {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).map_err(|_| Error::Usage {
        path: path.to_owned(),
        problem: "its metrics could not be written as text".to_owned(),
    })?;
    Ok(text)
}
