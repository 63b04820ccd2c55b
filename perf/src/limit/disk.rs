//! One append that is on disk when it returns.

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{FLUSH_P50, FLUSH_P99, Place, ROUNDS, Rounds};

/// A page, as a store's journal grows by at least.
const APPEND: [u8; 4 << 10] = [0xA5; 4 << 10];
/// A round ends after so many, or so long.
const APPENDS: usize = 100;
const ROUND: Duration = Duration::from_millis(200);

/// Appends to a file that is gone afterwards.
pub(super) fn flush(place: Place<'_>) -> Result<Rounds> {
    let file = tempfile::tempfile_in(place.folder);
    let mut file = file.with_context(|| format!("make a file in {}", place.folder.display()))?;
    append(&mut file)?;
    let (mut middles, mut tails) = (Vec::with_capacity(ROUNDS), Vec::with_capacity(ROUNDS));
    for _ in 0..ROUNDS {
        let (began, mut times) = (Instant::now(), Vec::with_capacity(APPENDS));
        while times.len() < APPENDS && began.elapsed() < ROUND {
            times.push(append(&mut file)?);
        }
        times.sort();
        middles.push(at(&times, 50));
        tails.push(at(&times, 99));
    }
    Ok(vec![(FLUSH_P50, "µs", middles), (FLUSH_P99, "µs", tails)])
}

fn append(file: &mut File) -> Result<Duration> {
    let began = Instant::now();
    file.write_all(&APPEND).context("append")?;
    file.sync_data().context("fdatasync")?;
    Ok(began.elapsed())
}

/// The percentile of sorted times, in microseconds: the nearest rank.
fn at(sorted: &[Duration], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).map_or(0.0, |time| time.as_secs_f64() * 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_the_nearest_rank() {
        let times = |n| (1..=n).map(Duration::from_micros).collect::<Vec<_>>();
        for (count, percent, value) in [(100, 50, 50.0), (100, 99, 99.0), (3, 50, 2.0), (3, 99, 3.0), (1, 50, 1.0)] {
            assert!((at(&times(count), percent) - value).abs() < 1e-6, "p{percent} of {count}");
        }
    }
}
