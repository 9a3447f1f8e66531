//! The forms in which single values are written: durations, sizes, addresses, paths, words. Each says what would be
//! right. How values belong together is not decided here.

use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::{Method, Uri};
use ipnet::{IpNet, Ipv4Net};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Unexpected, Visitor};

use crate::domain::app_url::AppUrl;
use crate::domain::pass_path::PassPath;
use crate::domain::route::{AckMode, OnApp, OnStoreDown};
use crate::domain::time::Timestamp;

/// A value that is written as text.
pub(super) trait Leaf: Sized {
    /// What would be right, as it follows "expected".
    const EXPECTED: &'static str;
    /// All the words there are, for a closed list.
    const WORDS: &'static [&'static str] = &[];
    /// The value, or nothing if the text does not have its form.
    fn parse(text: &str) -> Option<Self>;
}

/// A leaf as it is read by serde: text in, value out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text<T>(pub(super) T);

impl<'de, T: Leaf> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor(PhantomData))
    }
}

struct TextVisitor<T>(PhantomData<T>);

impl<T: Leaf> Visitor<'_> for TextVisitor<T> {
    type Value = Text<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Text<T>, E> {
        match T::parse(text) {
            Some(value) => Ok(Text(value)),
            None if T::WORDS.is_empty() => Err(E::invalid_value(Unexpected::Str(text), &self)),
            None => Err(E::unknown_variant(text, T::WORDS)),
        }
    }
}

impl<T: Leaf> JsonSchema for Text<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::EXPECTED.into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        if T::WORDS.is_empty() { json_schema!({ "type": "string" }) } else { json_schema!({ "enum": T::WORDS }) }
    }
}

/// A whole number from `LEAST` to `MOST`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Count<const LEAST: u64, const MOST: u64>(pub(super) u64);

impl<const LEAST: u64, const MOST: u64> Count<LEAST, MOST> {
    /// As `usize`, where `MOST` fits.
    pub(super) fn size(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// As `u32`, where `MOST` fits.
    pub(super) fn small(self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }
}

impl<'de, const LEAST: u64, const MOST: u64> Deserialize<'de> for Count<LEAST, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CountVisitor)
    }
}

struct CountVisitor<const LEAST: u64, const MOST: u64>;

impl<const LEAST: u64, const MOST: u64> Visitor<'_> for CountVisitor<LEAST, MOST> {
    type Value = Count<LEAST, MOST>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a whole number from {LEAST} to {MOST}")
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
        if (LEAST..=MOST).contains(&number) {
            Ok(Count(number))
        } else {
            Err(E::invalid_value(Unexpected::Unsigned(number), &self))
        }
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
        match u64::try_from(number) {
            Ok(number) => self.visit_u64(number),
            Err(_) => Err(E::invalid_value(Unexpected::Signed(number), &self)),
        }
    }
}

impl<const LEAST: u64, const MOST: u64> JsonSchema for Count<LEAST, MOST> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("from {LEAST} to {MOST}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": LEAST, "maximum": MOST })
    }
}

/// A number of at least 1 and at most 1000, as growth from wait to wait.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Factor(pub(super) f64);

impl<'de> Deserialize<'de> for Factor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FactorVisitor)
    }
}

struct FactorVisitor;

impl Visitor<'_> for FactorVisitor {
    type Value = Factor;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number from 1.0 to 1000.0")
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Factor, E> {
        if (1.0..=1000.0).contains(&number) {
            Ok(Factor(number))
        } else {
            Err(E::invalid_value(Unexpected::Float(number), &self))
        }
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Factor, E> {
        match u32::try_from(number) {
            Ok(number @ 1..=1000) => Ok(Factor(f64::from(number))),
            Ok(_) | Err(_) => Err(E::invalid_value(Unexpected::Signed(number), &self)),
        }
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Factor, E> {
        self.visit_i64(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl JsonSchema for Factor {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Factor".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "number", "minimum": 1, "maximum": 1000 })
    }
}

/// A number of bytes, as text with a unit or as a whole number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size(pub(super) u64);

impl Size {
    /// As `usize`.
    pub(super) fn length(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SizeVisitor)
    }
}

struct SizeVisitor;

impl Visitor<'_> for SizeVisitor {
    type Value = Size;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size such as \"1MiB\" or \"512KiB\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
        let size: Option<bytesize::ByteSize> = text.parse().ok();
        size.map(|size| Size(size.as_u64())).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Size, E> {
        u64::try_from(number).map(Size).map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Size, E> {
        Ok(Size(number))
    }
}

impl JsonSchema for Size {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "string", "pattern": "^[0-9]+(\\.[0-9]+)? ?([kKMGTP]i?)?[bB]?$" },
            { "type": "integer", "minimum": 0 }
        ] })
    }
}

/// Ten years: what is longer is a mistake, and every sum of two such spans still has a date.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);

impl Leaf for Duration {
    const EXPECTED: &'static str = "a duration such as \"30s\", \"5m\", \"24h\" or \"3d\"";

    fn parse(text: &str) -> Option<Self> {
        let mut rest = text.trim();
        let mut total = Self::ZERO;
        if rest.is_empty() {
            return None;
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit())?;
            let (number, tail) = rest.split_at_checked(digits)?;
            let unit = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at_checked(unit)?;
            let number: u64 = number.parse().ok()?;
            total = total.checked_add(Self::from_millis(number.checked_mul(millis_of_unit(unit)?)?))?;
            rest = tail;
        }
        (total <= LONGEST).then_some(total)
    }
}

fn millis_of_unit(unit: &str) -> Option<u64> {
    match unit {
        "ms" => Some(1),
        "s" => Some(1000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        "d" => Some(86_400_000),
        _ => None,
    }
}

impl Leaf for SocketAddr {
    const EXPECTED: &'static str = "an address with a port such as \"127.0.0.1:8080\" or \"[::]:8080\"";

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Leaf for IpNet {
    const EXPECTED: &'static str = "a network such as \"10.0.0.0/8\" or an address";

    fn parse(text: &str) -> Option<Self> {
        let network = text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(Self::from));
        network.map(without_mapping)
    }
}

/// A network of IPv4-mapped addresses as the IPv4 network that it stands for: so peers are compared with it.
fn without_mapping(network: IpNet) -> IpNet {
    let IpNet::V6(mapped) = network else { return network };
    let plain = mapped.addr().to_ipv4_mapped().zip(mapped.prefix_len().checked_sub(96));
    plain.and_then(|(address, length)| Ipv4Net::new(address, length).ok()).map_or(network, IpNet::V4)
}

impl Leaf for Method {
    const EXPECTED: &'static str = "a method in capitals such as \"POST\"";

    fn parse(text: &str) -> Option<Self> {
        let plain = text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
        Self::from_bytes(text.as_bytes()).ok().filter(|_| plain && text != "CONNECT")
    }
}

impl Leaf for Timestamp {
    const EXPECTED: &'static str = "a moment such as \"2026-12-31T00:00:00Z\"";

    fn parse(text: &str) -> Option<Self> {
        text.parse::<jiff::Timestamp>().ok().map(|moment| Self::from_millis(moment.as_millisecond()))
    }
}

impl Leaf for AckMode {
    const EXPECTED: &'static str = "`relay`, `queue` or `sync`";
    const WORDS: &'static [&'static str] = &["relay", "queue", "sync"];

    fn parse(text: &str) -> Option<Self> {
        match text {
            "relay" => Some(Self::Relay),
            "queue" => Some(Self::Queue),
            "sync" => Some(Self::Sync),
            _ => None,
        }
    }
}

impl Leaf for OnApp {
    const EXPECTED: &'static str = "`absorb` or `pass`";
    const WORDS: &'static [&'static str] = &["absorb", "pass"];

    fn parse(text: &str) -> Option<Self> {
        match text {
            "absorb" => Some(Self::Absorb),
            "pass" => Some(Self::Pass),
            _ => None,
        }
    }
}

impl Leaf for OnStoreDown {
    const EXPECTED: &'static str = "`local`, `refuse` or `accept`";
    const WORDS: &'static [&'static str] = &["local", "refuse", "accept"];

    fn parse(text: &str) -> Option<Self> {
        match text {
            "local" => Some(Self::Local),
            "refuse" => Some(Self::Refuse),
            "accept" => Some(Self::Accept),
            _ => None,
        }
    }
}

impl Leaf for AppUrl {
    const EXPECTED: &'static str = "an address such as \"http://127.0.0.1:3000\", without user, query or fragment";

    fn parse(text: &str) -> Option<Self> {
        web_address(text).and_then(Self::parse)
    }
}

/// The address that a provider calls, as it sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PublicUrl(pub(super) String);

impl Leaf for PublicUrl {
    const EXPECTED: &'static str =
        "the address the provider calls such as \"https://example.com/webhooks/name\", without user, query or fragment";

    fn parse(text: &str) -> Option<Self> {
        let after_scheme = web_address(text)?.split_once("://")?.1;
        after_scheme.contains('/').then(|| Self(text.to_owned()))
    }
}

fn web_address(text: &str) -> Option<&str> {
    let uri: Uri = text.parse().ok()?;
    let host = uri.host().filter(|host| !host.is_empty())?;
    let authority = uri.authority()?.as_str();
    let has_port = uri.port_u16().is_some_and(|port| port > 0) || authority.len() == host.len();
    let plain = !text.contains(['@', '?', '#']) && text.is_ascii();
    (plain && has_port && matches!(uri.scheme_str(), Some("http" | "https"))).then_some(text)
}

/// A path of a request, matched raw and exactly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RequestPath(pub(super) String);

impl Leaf for RequestPath {
    const EXPECTED: &'static str = "a path that starts with `/`, without query, fragment, blanks or `*`";

    fn parse(text: &str) -> Option<Self> {
        let plain = text.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#*\"<>\\".contains(&byte));
        (text.starts_with('/') && plain).then(|| Self(text.to_owned()))
    }
}

impl Leaf for PassPath {
    const EXPECTED: &'static str = "a path such as \"/health\", or all below one such as \"/static/*\"";

    fn parse(text: &str) -> Option<Self> {
        match text.strip_suffix('*') {
            None => RequestPath::parse(text).map(|path| Self::Exact(path.0)),
            Some(prefix) => {
                RequestPath::parse(prefix).filter(|path| path.0.ends_with('/')).map(|path| Self::Below(path.0))
            }
        }
    }
}

/// A JSON pointer (RFC 6901) to something inside the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pointer(pub(super) String);

impl Leaf for Pointer {
    const EXPECTED: &'static str = "a JSON pointer such as \"/task_id\"";

    fn parse(text: &str) -> Option<Self> {
        let tildes_are_escapes = text.split('~').skip(1).all(|after| after.starts_with(['0', '1']));
        (text.starts_with('/') && tildes_are_escapes).then(|| Self(text.to_owned()))
    }
}

/// Attempts a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate(pub(super) u32);

impl Leaf for Rate {
    const EXPECTED: &'static str = "a rate such as \"50/s\"";

    fn parse(text: &str) -> Option<Self> {
        let number: u32 = text.strip_suffix("/s")?.parse().ok()?;
        (1..=1_000_000).contains(&number).then_some(Self(number))
    }
}

/// A media type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MediaType(pub(super) String);

impl Leaf for MediaType {
    const EXPECTED: &'static str = "a media type such as \"application/json\"";

    fn parse(text: &str) -> Option<Self> {
        let plain = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        (text.contains('/') && plain).then(|| Self(text.to_owned()))
    }
}

/// Text that is not blank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name(pub(super) String);

impl Leaf for Name {
    const EXPECTED: &'static str = "text that is not blank";

    fn parse(text: &str) -> Option<Self> {
        let plain = !text.chars().any(char::is_control);
        (plain && !text.trim().is_empty()).then(|| Self(text.to_owned()))
    }
}
