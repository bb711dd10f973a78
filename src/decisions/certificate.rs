//! When a TLS certificate is a trouble that somebody must be told of.

use chrono::TimeDelta;

use crate::types::Time;
use crate::types::storage_api::{CertificateStatus, Validity};

/// A certificate that ends sooner should have been replaced by now.
const WARN_BEFORE_MAX: TimeDelta = TimeDelta::days(21);
/// One that lasts only weeks or hours is replaced when the last quarter of its time begins.
const WARN_BEFORE_SHARE: i32 = 4;

/// What is wrong with a certificate, or soon will be. The sentence stays the same until something changes.
pub fn trouble(certificate: &CertificateStatus, now: Time) -> Option<String> {
    let Validity { from, until } = certificate.validity;
    let day = |time: Time| time.format("%Y-%m-%d %H:%M UTC");
    let warn_before = WARN_BEFORE_MAX.min((until - from) / WARN_BEFORE_SHARE);
    if let Some(reason) = &certificate.refused {
        return Some(format!("a new TLS certificate cannot be used, the one until {} goes on: {reason}", day(until)));
    }
    if now > until {
        Some(format!("its TLS certificate has ended on {}; nobody can connect until it is replaced", day(until)))
    } else if now < from {
        Some(format!("its TLS certificate is not valid before {}; is the clock right?", day(from)))
    } else if until - now < warn_before {
        Some(format!("its TLS certificate ends on {}; replace it", day(until)))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{TimeZone, Utc};

    #[test]
    fn troubles_by_the_time_that_is_left() {
        let now = Utc.with_ymd_and_hms(2026, 11, 25, 12, 0, 0).unwrap();
        let (days, hours) = (TimeDelta::days, TimeDelta::hours);
        for (from, until, want) in [
            (days(-300), days(97), None),
            (days(-376), days(21), None),
            (days(-377), days(20), Some("ends on 2026-12-15 12:00 UTC")),
            // A month before the end of ninety days is early enough for those who replace by themselves.
            (days(-60), days(30), None),
            // Short lives are no trouble while they are young.
            (hours(-1), hours(23), None),
            (hours(-20), hours(4), Some("ends on 2026-11-25 16:00 UTC")),
            (days(-10), hours(-1), Some("has ended on 2026-11-25 11:00 UTC")),
            (hours(1), days(90), Some("not valid before 2026-11-25 13:00 UTC")),
        ] {
            let validity = Validity { from: now + from, until: now + until };
            let told = trouble(&CertificateStatus { validity, refused: None }, now);
            assert_eq!(told.is_some(), want.is_some(), "{from} {until}: {told:?}");
            assert!(told.unwrap_or_default().contains(want.unwrap_or_default()));
        }
    }

    #[test]
    fn files_that_cannot_be_used_are_a_trouble_before_anything_ends() {
        let now = Utc::now();
        let validity = Validity { from: now, until: now + TimeDelta::days(300) };
        let told = trouble(&CertificateStatus { validity, refused: Some("no PEM".into()) }, now).unwrap();
        assert!(told.contains("no PEM") && told.contains("goes on"), "{told}");
    }
}
