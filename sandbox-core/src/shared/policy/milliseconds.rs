//! A time as it stands in JSON: a number of milliseconds, under a name that ends in `_ms`.
//!
//! Runs in the host, and in whoever reads its figures. Owns that one shape, for every time that is told. Never loses a
//! nanosecond of less than some days.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer, de};

const NANOS: f64 = 1e6;

/// A whole number where it is one.
pub(crate) fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    match u64::try_from(time.as_millis()) {
        Ok(whole) if Duration::from_millis(whole) == *time => serializer.serialize_u64(whole),
        #[expect(
            clippy::cast_precision_loss,
            reason = "of a time so long its last nanoseconds do not matter"
        )]
        _ => serializer.serialize_f64(time.as_nanos() as f64 / NANOS),
    }
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let milliseconds = f64::deserialize(deserializer)?;
    // Checks that it is a number of any time at all; the nanoseconds are more exact by themselves.
    let time = Duration::try_from_secs_f64(milliseconds / 1e3).map_err(de::Error::custom)?;
    let nanos = (milliseconds * NANOS).round();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked on the way")]
    let exact = (0.0..9e15).contains(&nanos).then(|| Duration::from_nanos(nanos as u64));
    Ok(exact.unwrap_or(time))
}

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Told {
        #[serde(with = "super")]
        took_ms: Duration,
    }

    #[test]
    fn a_time_is_a_number_and_reads_back_as_it_was() {
        for (nanos, text) in [
            (0, "0"),
            (1, "1e-6"),
            (1_000_000, "1"),
            (1_500_000, "1.5"),
            (5_000_000_000, "5000"),
            (86_400_000_000_001, "86400000.000001"),
        ] {
            let told = Told { took_ms: Duration::from_nanos(nanos) };
            let written = serde_json::to_string(&told).unwrap();
            assert_eq!(written, format!("{{\"took_ms\":{text}}}"));
            assert_eq!(serde_json::from_str::<Told>(&written).unwrap(), told);
        }
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..1000 {
            let told = Told { took_ms: Duration::from_nanos(random.u64(..) >> random.u32(13..64)) };
            let written = serde_json::to_string(&told).unwrap();
            assert_eq!(serde_json::from_str::<Told>(&written).unwrap(), told);
        }
    }

    #[test]
    fn what_is_no_time_is_an_error() {
        for wrong in ["-1", "1e300", "\"5\"", "null", "{\"secs\":1,\"nanos\":0}"] {
            let line = format!("{{\"took_ms\":{wrong}}}");
            serde_json::from_str::<Told>(&line).expect_err(wrong);
        }
        for longest in [Duration::MAX, Duration::from_secs(7 * 24 * 3600)] {
            let written = serde_json::to_string(&Told { took_ms: longest }).unwrap();
            let _ = serde_json::from_str::<Told>(&written);
        }
    }
}
