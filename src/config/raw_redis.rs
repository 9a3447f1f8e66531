//! The Redis of `store = "redis"` as it is written. What the keys mean together is checked later.

use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};

use super::leaf::{Count, Name, Text};
use super::raw::{Hidden, RawReference};

/// The Redis of `store = "redis"`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRedis {
    /// Its address, or where to read it from; a list: a cluster, of which these servers are asked for the others.
    pub(super) url: Option<RawRedisUrl>,
    /// The user, in place of the address's.
    pub(super) username: Option<RawGiven>,
    /// Where the password is read from, in place of the address's. A file is read again when Redis refuses what it held, and at a reload.
    pub(super) password: Option<RawReference>,
    /// The files of `rediss://`.
    pub(super) tls: RawRedisTls,
    /// Redis Sentinel: whichever server it names, in place of `url`.
    pub(super) sentinel: Option<RawSentinel>,
    /// Longest wait for one call.
    pub(super) timeout: Option<Text<Duration>>,
    /// Replicas that must have a claim before it counts (`WAIT`).
    pub(super) wait_replicas: Option<Count<0, 1000>>,
    /// What every key starts with.
    pub(super) key_prefix: Option<Text<Name>>,
}

/// The files of `rediss://`, in PEM, relative to the file that names them; read again when a connection fails with what they held, and at a reload.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRedisTls {
    /// Who may vouch for the server; without it, whoever this machine trusts.
    pub(super) ca: Option<Text<Name>>,
    /// Our own certificate, with what leads to its root.
    pub(super) cert: Option<Text<Name>>,
    /// Its key.
    pub(super) key: Option<Text<Name>>,
    /// The name that the server's certificate has to hold, in place of the address.
    pub(super) server_name: Option<Text<Name>>,
}

/// Redis Sentinel.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawSentinel {
    /// The name under which the sentinels know the server.
    pub(super) master: Option<Text<Name>>,
    /// Their addresses; `rediss://` for them and the servers they name, or for none.
    pub(super) nodes: Option<Vec<RawGiven>>,
    /// Our user at the sentinels, in place of the addresses'.
    pub(super) username: Option<RawGiven>,
    /// Our password at the sentinels, in place of the addresses'.
    pub(super) password: Option<RawReference>,
    /// The number of the database at the server.
    pub(super) database: Option<Count<0, 65_535>>,
}

/// A text that is written out, or where to read it from.
#[derive(Debug)]
pub(super) enum RawGiven {
    /// Written out; an address may hold a password.
    Written(Hidden),
    /// Read from elsewhere.
    Reference(RawReference),
}

impl<'de> Deserialize<'de> for RawGiven {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(GivenVisitor)
    }
}

struct GivenVisitor;

impl<'de> Visitor<'de> for GivenVisitor {
    type Value = RawGiven;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, or { env = \"NAME\" }")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(RawGiven::Written(Hidden(text.to_owned())))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        RawReference::deserialize(MapAccessDeserializer::new(map)).map(RawGiven::Reference)
    }
}

impl JsonSchema for RawGiven {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RawGiven".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let reference = generator.subschema_for::<RawReference>();
        json_schema!({ "anyOf": [{ "type": "string" }, reference] })
    }
}

/// The address of a Redis.
#[derive(Debug)]
pub(super) enum RawRedisUrl {
    /// One server.
    One(RawGiven),
    /// Several: a cluster.
    Cluster(Vec<RawGiven>),
}

impl<'de> Deserialize<'de> for RawRedisUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RedisUrlVisitor)
    }
}

struct RedisUrlVisitor;

impl<'de> Visitor<'de> for RedisUrlVisitor {
    type Value = RawRedisUrl;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an address such as \"redis://127.0.0.1:6379/0\", { env = \"NAME\" }, or a list of them")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        GivenVisitor.visit_str(text).map(RawRedisUrl::One)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        GivenVisitor.visit_map(map).map(RawRedisUrl::One)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(seq)).map(RawRedisUrl::Cluster)
    }
}

impl JsonSchema for RawRedisUrl {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RawRedisUrl".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let reference = generator.subschema_for::<RawReference>();
        let one = json_schema!({ "anyOf": [{ "type": "string", "pattern": "^rediss?://" }, reference] });
        json_schema!({ "anyOf": [one, { "type": "array", "items": one, "minItems": 1 }] })
    }
}
