//! One level of a JSON object or array, reduced to the children that are looked for.
//!
//! What stands beside them is checked for syntax and skipped. Not here: what is made of the children.

use std::fmt;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use smallvec::SmallVec;

use super::USUAL;

/// A value that is looked for, and what is left of its pointer at this level.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'w> {
    /// Whose value it is.
    pub(super) slot: usize,
    /// The names and places that lead to it from here.
    pub(super) rest: &'w [String],
}

/// What is looked for at one level.
pub(super) type Wants<'w> = SmallVec<[Wanted<'w>; USUAL]>;

impl<'w> Wanted<'w> {
    /// The name or place that it begins with.
    fn first(&self) -> Option<&'w str> {
        self.rest.first().map(String::as_str)
    }

    /// What is left of it below `token`; nothing if it is not below.
    pub(super) fn step(&self, token: &str) -> Option<Self> {
        let (first, rest) = self.rest.split_first()?;
        (first == token).then_some(Wanted { slot: self.slot, rest })
    }
}

/// A child of an object or array that is looked for.
pub(super) enum Child<'b> {
    /// This.
    Once(&'b RawValue),
    /// Readers may differ about it.
    Repeated,
}

/// One level of an object or array, reduced to the children that are looked for.
pub(super) type Level<'w, 'b> = SmallVec<[(&'w str, Child<'b>); USUAL]>;

/// Reads one level of `json` into `level`, which is empty, so that its room is not moved. The syntax of all of it is checked.
pub(super) fn read_level<'w, 'b>(
    level: &mut Level<'w, 'b>,
    json: &'b [u8],
    wanted: &[Wanted<'w>],
) -> serde_json::Result<()> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    LevelReader { wanted, level }.deserialize(&mut reader)?;
    reader.end()
}

/// Reads a level into `level`, which is empty.
struct LevelReader<'r, 'w, 'de> {
    wanted: &'r [Wanted<'w>],
    level: &'r mut Level<'w, 'de>,
}

impl<'de> DeserializeSeed<'de> for LevelReader<'_, '_, 'de> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// The name of a child, as it is looked for; nothing if it is not.
struct NameReader<'r, 'w>(&'r [Wanted<'w>]);

impl<'w, 'de> DeserializeSeed<'de> for NameReader<'_, 'w> {
    type Value = Option<&'w str>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'w> Visitor<'_> for NameReader<'_, 'w> {
    type Value = Option<&'w str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().filter_map(Wanted::first).find(|token| *token == name))
    }
}

impl<'de> Visitor<'de> for LevelReader<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(wanted) = map.next_key_seed(NameReader(self.wanted))? {
            let Some(token) = wanted else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let value = map.next_value()?;
            match self.level.iter_mut().find(|(known, _)| *known == token) {
                Some((_, child)) => *child = Child::Repeated,
                None => self.level.push((token, Child::Once(value))),
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let firsts = self.wanted.iter().filter_map(Wanted::first);
        let places: SmallVec<[(usize, &str); USUAL]> = firsts.filter_map(|it| Some((place(it)?, it))).collect();
        for index in 0.. {
            let more = match places.iter().find(|(place, _)| *place == index) {
                Some((_, token)) => seq.next_element()?.map(|value| self.level.push((token, Child::Once(value)))),
                None => seq.next_element::<IgnoredAny>()?.map(drop),
            };
            if more.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// A token as an array index: no sign, no leading zero (RFC 6901 section 4).
fn place(token: &str) -> Option<usize> {
    let canonical = token == "0" || !token.starts_with('0');
    (canonical && token.bytes().all(|b| b.is_ascii_digit())).then(|| token.parse().ok())?
}
