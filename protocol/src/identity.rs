//! The small values that name things: revisions, uids, node names, causes, instants. One newtype each, so that a
//! revision is never taken for a time. Used by every crate; holds no logic beyond parsing and printing.

use std::fmt;
use std::sync::Arc;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// The store's global write counter. The revision of an object's last write is its `metadata.resourceVersion`.
/// Zero means "before the first write".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl Revision {
    /// Before the first write.
    pub const ZERO: Revision = Revision(0);

    /// The revision that follows this one.
    #[must_use]
    pub fn next(self) -> Revision {
        Revision(self.0 + 1)
    }

    /// Parses a `resourceVersion`: a decimal number without sign.
    pub fn parse(text: &str) -> Option<Revision> {
        text.parse().ok().map(Revision)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! text_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Wraps the text as it is; whoever reads it from outside validates it first.
            pub fn new(text: impl Into<Arc<str>>) -> Self {
                Self(text.into())
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

text_newtype! {
    /// `metadata.uid`: names one life of an object, also after another of the same name took its place.
    Uid
}

impl Uid {
    /// A version 4 UUID (RFC 9562, section 5.4) of random bits, of which six are overwritten.
    pub fn from_bits(bits: u128) -> Uid {
        let bits = (bits & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
        let hex = format!("{bits:032x}");
        let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
        Uid(parts.join("-").into())
    }
}

text_newtype! {
    /// The name of a machine in the cluster, the same as its Node object's `metadata.name` (a DNS-1123 subdomain).
    NodeName
}

/// What set a chain of messages, writes and effects in motion: an API request, a timer, a peer's failure. It is carried
/// along unchanged, so that logs, history and `why` can follow one cause through every part. Zero means "unknown".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cause(pub u64);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A wall-clock instant in milliseconds since the Unix epoch. Deciding code gets it as an argument.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// This instant plus `ms` milliseconds.
    #[must_use]
    pub fn plus_ms(self, ms: u64) -> UnixMillis {
        UnixMillis(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to this instant; zero when `earlier` lies after it.
    pub fn since_ms(self, earlier: UnixMillis) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// RFC 3339 in UTC with seconds, as Kubernetes' `metav1.Time` prints it: `2026-01-31T12:00:00Z`.
    pub fn rfc3339(self) -> String {
        let (date, second_of_day) = self.civil();
        let (h, m, s) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
        format!("{date}T{h:02}:{m:02}:{s:02}Z")
    }

    /// RFC 3339 in UTC with microseconds, as Kubernetes' `metav1.MicroTime` prints it.
    pub fn rfc3339_micros(self) -> String {
        let (date, second_of_day) = self.civil();
        let (h, m, s) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
        format!("{date}T{h:02}:{m:02}:{s:02}.{:06}Z", self.0 % 1000 * 1000)
    }

    /// Date as `YYYY-MM-DD` and the second of the day. Days to civil date after Howard Hinnant's algorithm
    /// ("chrono-compatible low-level date algorithms").
    fn civil(self) -> (String, u64) {
        let seconds = self.0 / 1000;
        let z = (seconds / 86_400) as i64 + 719_468;
        let era = z.div_euclid(146_097);
        let day_of_era = z.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_index = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_index + 2) / 5 + 1;
        let month = if month_index < 10 {
            month_index + 3
        } else {
            month_index - 9
        };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        (format!("{year:04}-{month:02}-{day:02}"), seconds % 86_400)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_say_that_they_are_random() {
        assert_eq!(
            Uid::from_bits(u128::MAX).as_str(),
            "ffffffff-ffff-4fff-bfff-ffffffffffff"
        );
        assert_eq!(Uid::from_bits(0).as_str(), "00000000-0000-4000-8000-000000000000");
    }

    #[test]
    fn instants_print_as_kubernetes_prints_them() {
        assert_eq!(UnixMillis(0).rfc3339(), "1970-01-01T00:00:00Z");
        assert_eq!(UnixMillis(951_782_400_000).rfc3339(), "2000-02-29T00:00:00Z");
        assert_eq!(
            UnixMillis(1_767_225_599_250).rfc3339_micros(),
            "2025-12-31T23:59:59.250000Z"
        );
    }

    #[test]
    fn resource_versions_parse_only_as_plain_numbers() {
        assert_eq!(Revision::parse("42"), Some(Revision(42)));
        for bad in ["", "-1", "1.0", "abc", "99999999999999999999999"] {
            assert_eq!(Revision::parse(bad), None, "{bad}");
        }
    }
}
