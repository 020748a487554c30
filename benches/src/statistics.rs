//! Owns percentiles and rates over windows of time. Called by the meter, the replay and the programs. It must say nothing
//! (`None`) where too little was measured for the word to mean anything.

use serde::{Deserialize, Serialize};

/// Percentiles of a sample, in the unit of the sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// The median.
    pub p50: f64,
    /// Nine tenths are at most this.
    pub p90: f64,
    /// 99 of a hundred are at most this.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

impl Percentiles {
    /// Percentiles by the nearest rank; `None` of nothing. Sorts the sample.
    pub fn of(sample: &mut [f64]) -> Option<Self> {
        if sample.is_empty() {
            return None;
        }
        sample.sort_unstable_by(f64::total_cmp);
        let rank = |share: f64| sample[((sample.len() as f64 * share).ceil() as usize).clamp(1, sample.len()) - 1];
        Some(Self {
            p50: rank(0.5),
            p90: rank(0.9),
            p99: rank(0.99),
            max: sample[sample.len() - 1],
        })
    }
}

/// Events at moments, counted in windows of equal length.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    /// Nanoseconds since the beginning, and how many events came then.
    points: Vec<(u64, u64)>,
}

impl Timeline {
    /// Takes note of events; moments never go back.
    pub fn push(&mut self, at_ns: u64, events: u64) {
        match self.points.last_mut() {
            Some((last, count)) if *last == at_ns => *count += events,
            _ => self.points.push((at_ns, events)),
        }
    }

    /// Percentiles of the rate per second over whole windows; `None` if fewer than `windows_min` are whole.
    pub fn rates(&self, window_ns: u64, windows_min: usize) -> Option<Percentiles> {
        let end = self.points.last()?.0;
        let windows = (end / window_ns) as usize;
        if windows < windows_min {
            return None;
        }
        let mut counts = vec![0u64; windows];
        for (at, count) in &self.points {
            if let Some(window) = counts.get_mut((at / window_ns) as usize) {
                *window += count;
            }
        }
        let per_second = 1e9 / window_ns as f64;
        let mut rates: Vec<f64> = counts.into_iter().map(|count| count as f64 * per_second).collect();
        Percentiles::of(&mut rates)
    }
}

/// The largest resident memory of this process so far (`VmHWM` of proc(5)), in bytes; 0 if the kernel does not say.
pub fn resident_bytes_max() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(0, |kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let mut sample: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let percentiles = Percentiles::of(&mut sample).unwrap();
        assert_eq!(
            (percentiles.p50, percentiles.p90, percentiles.p99, percentiles.max),
            (50.0, 90.0, 99.0, 100.0)
        );
        assert_eq!(Percentiles::of(&mut [7.0]).unwrap().p99, 7.0);
        assert_eq!(Percentiles::of(&mut []), None);
    }

    #[test]
    fn rates_are_of_whole_windows_only() {
        let mut timeline = Timeline::default();
        for at in 0..35 {
            timeline.push(at * 100, 2);
        }
        assert_eq!(timeline.rates(1000, 4), None);
        let rates = timeline.rates(1000, 3).unwrap();
        assert_eq!((rates.p50, rates.max), (20.0 * 1e6, 20.0 * 1e6));
    }
}
