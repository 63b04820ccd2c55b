//! From when until when a certificate is valid, read from its DER.

/// Seconds of Unix time, both inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) not_before: i64,
    pub(super) not_after: i64,
}

const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0]`, constructed.
const VERSION: u8 = 0xa0;

impl Validity {
    /// Reads as far as the validity; `None` if that cannot be found.
    ///
    /// Shape: `Certificate` is a sequence whose first element, `TBSCertificate`, is a sequence of an optional version, the serial
    /// number, the signature algorithm, the issuer, and the validity: two times.
    ///
    /// Source: RFC 5280 §4.1.
    pub(super) fn of(certificate: &[u8]) -> Option<Self> {
        let mut certificate = Der(certificate);
        let mut whole = Der(certificate.expect(SEQUENCE)?);
        let mut fields = Der(whole.expect(SEQUENCE)?);
        let (first, _) = fields.next()?;
        // What was first is the version, or already the serial number.
        let before_validity = if first == VERSION { 3 } else { 2 };
        for _ in 0..before_validity {
            fields.next()?;
        }
        let mut validity = Der(fields.expect(SEQUENCE)?);
        Some(Self { not_before: time(validity.next()?)?, not_after: time(validity.next()?)? })
    }
}

/// Elements that follow each other.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// Tag and content of the next element.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, length], rest) = self.0.split_first_chunk()?;
        let (length, rest) = if length < 0x80 {
            (usize::from(length), rest)
        } else {
            let (bytes, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            if bytes.is_empty() || bytes.len() > 4 {
                return None;
            }
            (bytes.iter().fold(0, |length, &byte| length << 8 | usize::from(byte)), rest)
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|&(got, _)| got == tag).map(|(_, content)| content)
    }
}

/// `YYMMDDHHMMSSZ` before 2050, `YYYYMMDDHHMMSSZ` from then on (RFC 5280 §4.1.2.5).
fn time((tag, text): (u8, &[u8])) -> Option<i64> {
    let text = text.strip_suffix(b"Z")?;
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = text.split_at_checked(2)?;
            let year = number(year)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = text.split_at_checked(4)?;
            (number(year)?, rest)
        }
        _ => return None,
    };
    let parts: Vec<i64> = rest.chunks(2).map(number).collect::<Option<_>>()?;
    let &[month, day, hour, minute, second] = parts.as_slice() else { return None };
    let valid = (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..=60).contains(&second);
    valid.then(|| days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second)
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |number, digit| digit.is_ascii_digit().then(|| number * 10 + i64::from(digit - b'0')))
}

/// Days from 1970-01-01 to a day of the Gregorian calendar. Years begin in March, so that a leap day is their last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_of_unix_time() {
        let check = |tag: u8, text: &str, expect: Option<i64>| {
            assert_eq!(time((tag, text.as_bytes())), expect, "{text}");
        };
        check(UTC_TIME, "700101000000Z", Some(0));
        check(UTC_TIME, "261122203000Z", Some(1_795_379_400));
        check(UTC_TIME, "491231235959Z", Some(2_524_607_999));
        check(UTC_TIME, "500101000000Z", Some(-631_152_000));
        check(GENERALIZED_TIME, "20500101000000Z", Some(2_524_608_000));
        check(GENERALIZED_TIME, "20240229120000Z", Some(1_709_208_000));
        check(GENERALIZED_TIME, "99991231235959Z", Some(253_402_300_799));
        check(UTC_TIME, "700101000000", None);
        check(UTC_TIME, "701301000000Z", None);
        check(UTC_TIME, "7001010000Z", None);
        check(UTC_TIME, "70010100000xZ", None);
        check(0x0c, "700101000000Z", None);
    }

    #[test]
    fn a_certificate_that_is_cut_anywhere_is_no_trouble() {
        let mut params = rcgen::CertificateParams::new(vec!["x".to_owned()]).expect("a name");
        params.not_before = rcgen::date_time_ymd(2026, 1, 2);
        params.not_after = rcgen::date_time_ymd(2051, 3, 4);
        let key = rcgen::KeyPair::generate().expect("key");
        let certificate = params.self_signed(&key).expect("certificate");
        let der = certificate.der();
        let expect = Validity { not_before: 1_767_312_000, not_after: 2_561_500_800 };
        assert_eq!(Validity::of(der), Some(expect));
        for end in 0..der.len() {
            assert_eq!(Validity::of(&der[..end]), None, "cut at {end}");
        }
        for at in 0..der.len().min(200) {
            let mut wrong = der.to_vec();
            wrong[at] ^= 0xff;
            // Whatever it says, it says it without a panic.
            let _ = Validity::of(&wrong);
        }
    }
}
