//! Accept-Encoding (RFC 9110 section 12.5.3): which of the codings that a file is there in a client prefers.

use super::fields::ListField;

/// A coding in which a file may lie beside itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Coding {
    Brotli,
    Zstandard,
    Gzip,
}

impl Coding {
    pub const ALL: [Coding; 3] = [Coding::Brotli, Coding::Zstandard, Coding::Gzip];

    /// As in Content-Encoding.
    pub fn name(self) -> &'static str {
        match self {
            Coding::Brotli => "br",
            Coding::Zstandard => "zstd",
            Coding::Gzip => "gzip",
        }
    }

    /// What the name of the file beside the file ends with.
    pub fn suffix(self) -> &'static str {
        match self {
            Coding::Brotli => ".br",
            Coding::Zstandard => ".zst",
            Coding::Gzip => ".gz",
        }
    }

    fn of_name(name: &[u8]) -> Option<Self> {
        let name = if name.eq_ignore_ascii_case(b"x-gzip") { b"gzip" } else { name };
        Self::ALL.into_iter().find(|coding| name.eq_ignore_ascii_case(coding.name().as_bytes()))
    }
}

/// How much a client wants each coding, in thousandths; `None` where it does not say.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Preferences {
    codings: [Option<u16>; Coding::ALL.len()],
    identity: Option<u16>,
    any: Option<u16>,
}

impl Preferences {
    fn of(field: &ListField<'_>) -> Self {
        let mut preferences = Preferences::default();
        for member in field.lines().flat_map(|line| line.split(|&byte| byte == b',')) {
            let mut parts = member.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
            let name = parts.next().unwrap_or_default();
            let Some(quality) = quality(parts) else { continue };
            match Coding::of_name(name) {
                Some(coding) => preferences.codings[coding as usize] = Some(quality),
                None if name.eq_ignore_ascii_case(b"identity") => preferences.identity = Some(quality),
                None if name == b"*" => preferences.any = Some(quality),
                None => {}
            }
        }
        preferences
    }

    fn quality(&self, coding: Coding) -> u16 {
        self.codings[coding as usize].or(self.any).unwrap_or(0)
    }
}

/// The coding to send, of `available` ones with the bytes that each has; `None` is the file as it is.
///
/// The client's preference counts first, then the fewest bytes. A coding is preferred to none, unless the client says
/// otherwise. A client that takes nothing of what there is gets the file as it is, which it can at least complain about.
pub fn choose(field: &ListField<'_>, available: impl Iterator<Item = (Coding, u64)>) -> Option<Coding> {
    if field.is_absent() {
        return None;
    }
    let preferences = Preferences::of(field);
    let wanted = available.map(|(coding, bytes)| (preferences.quality(coding), bytes, coding));
    let (quality, _, coding) =
        wanted.filter(|&(quality, ..)| quality > 0).max_by_key(|&(quality, bytes, _)| (quality, u64::MAX - bytes))?;
    preferences.identity.is_none_or(|identity| quality >= identity).then_some(coding)
}

/// The weight among a member's parameters: 1 if there is none, `None` if it is malformed.
fn quality<'a>(mut parameters: impl Iterator<Item = &'a [u8]>) -> Option<u16> {
    let Some(value) = parameters.find_map(|parameter| {
        let (name, value) = parameter.split_at_checked(2)?;
        name.eq_ignore_ascii_case(b"q=").then_some(value)
    }) else {
        return Some(1000);
    };
    let (whole, decimals) = match value {
        [whole @ (b'0' | b'1')] => (*whole, &b""[..]),
        [whole @ (b'0' | b'1'), b'.', decimals @ ..] if decimals.len() <= 3 => (*whole, decimals),
        _ => return None,
    };
    let digits = decimals.iter().chain(b"000").take(3);
    let mut thousandths = digits.map(|digit| digit.is_ascii_digit().then(|| u16::from(digit - b'0')));
    let thousandths = thousandths.try_fold(0, |sum, digit| Some(sum * 10 + digit?))?;
    let quality = u16::from(whole - b'0') * 1000 + thousandths;
    (quality <= 1000).then_some(quality)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::static_files::fields::Fields;

    fn chosen(value: &str, available: &[(Coding, u64)]) -> Option<Coding> {
        let line = [(&b"accept-encoding"[..], value.as_bytes())];
        choose(&Fields::of(line.into_iter()).accept_encoding, available.iter().copied())
    }

    const BOTH: &[(Coding, u64)] = &[(Coding::Brotli, 80), (Coding::Gzip, 100)];

    #[test]
    fn the_clients_preference_counts_before_the_size() {
        for (value, expected) in [
            ("gzip, deflate, br, zstd", Some(Coding::Brotli)),
            ("gzip;q=1.0, br;q=0.9", Some(Coding::Gzip)),
            ("gzip", Some(Coding::Gzip)),
            ("x-gzip", Some(Coding::Gzip)),
            ("GZIP;Q=0.5", Some(Coding::Gzip)),
            ("*", Some(Coding::Brotli)),
            ("*;q=0.5, br;q=0", Some(Coding::Gzip)),
            ("br;q=0, gzip;q=0", None),
            ("deflate", None),
            ("zstd", None),
            ("", None),
            ("identity", None),
            ("identity;q=1, gzip;q=0.5", None),
            ("identity;q=0.5, gzip;q=0.5", Some(Coding::Gzip)),
            ("identity;q=0", None),
            ("br;q=0.001", Some(Coding::Brotli)),
        ] {
            assert_eq!(chosen(value, BOTH), expected, "{value}");
        }
        assert_eq!(chosen("gzip, br", &[(Coding::Brotli, 120), (Coding::Gzip, 100)]), Some(Coding::Gzip));
        assert_eq!(chosen("gzip, br", &[]), None);
        assert_eq!(choose(&ListField::default(), BOTH.iter().copied()), None);
    }

    #[test]
    fn a_malformed_weight_takes_its_member_out() {
        for value in ["br;q=", "br;q=2", "br;q=1.001", "br;q=0.1234", "br;q=.5", "br;q=0.x", "br;q=-1", "br;q=1 0"] {
            assert_eq!(chosen(value, BOTH), None, "{value}");
        }
    }

    #[test]
    fn several_lines_are_one_list() {
        let lines = [(&b"accept-encoding"[..], &b"gzip;q=0.5"[..]), (b"accept-encoding", b"br")];
        let fields = Fields::of(lines.into_iter());
        assert_eq!(choose(&fields.accept_encoding, BOTH.iter().copied()), Some(Coding::Brotli));
    }
}
