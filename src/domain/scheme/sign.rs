//! Signing a request as the provider would: for sending test events and for tests.
//!
//! Only schemes whose signature stands in a header; a body is never changed.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method};

use super::address::Address;
use super::encoding::{digest, encode};
use super::form::Form;
use super::freshness::Moment;
use super::raw::Encoding;
use super::reading::{Fill, Reading, Subject, form_of, query_value};
use super::signature::Place;
use super::source::Source;
use super::template::{Message, Part};
use super::{Means, Read, Scheme, SchemeFault};
use crate::domain::headers::Headers;
use crate::domain::refusal::Refusal;
use crate::domain::secret::Secret;
use crate::domain::time::Timestamp;

/// A request that is still to be signed.
#[derive(Clone, Debug)]
pub struct Unsigned {
    /// The method.
    pub method: Method,
    /// The whole address, as the gateway's `public_url` says it.
    pub url: String,
    /// The headers so far.
    pub headers: Headers,
    /// The body.
    pub body: Bytes,
}

impl Scheme {
    /// Puts the provider's headers on `request`: signature, timestamp `now`, the headers it requires, and an id if
    /// the scheme has one and `request` has none.
    pub fn sign(&self, request: &mut Unsigned, secret: &Secret, now: Timestamp) -> Result<(), SchemeFault> {
        let key = self.prepare(secret)?;
        let shown = self.key.key(secret).unwrap_or_default();
        let header = self.signature_header()?;
        for (name, value) in &self.require {
            put(&mut request.headers, name, value)?;
        }
        let value = match &self.means {
            Means::Token => [self.notation.prefix.as_slice(), shown.as_slice()].concat(),
            Means::Basic => format!("Basic {}", encode(Encoding::Base64, &shown)).into_bytes(),
            Means::Jwt(jwt) => {
                self.fill_in(request, now)?;
                let token = jwt.write(self, &key, request, now);
                token.ok_or_else(|| cannot("kind", "a kind that cannot be signed here"))?
            }
            Means::Signature(_) if key.is_public() => return Err(no_private_key()),
            Means::Signature(proof) => {
                self.fill_in(request, now)?;
                let time = self.time_to_sign(request, now);
                let signature = self.with_message(request, time.as_deref(), |message| key.compute(*proof, message))?;
                let signature = signature.ok_or_else(|| cannot("kind", "a kind that cannot be signed here"))?;
                self.written(&encode(self.notation.encoding, &signature), time.as_deref())
            }
        };
        let value = HeaderValue::from_bytes(&value).map_err(|_| cannot("secrets", "bytes that no header can hold"))?;
        request.headers.insert(header, value);
        Ok(())
    }

    fn signature_header(&self) -> Result<HeaderName, SchemeFault> {
        let name = match &self.place {
            Place::Headers(names) => names.first().cloned(),
            Place::HeadersLike(start) => format!("{start}1").parse().ok(),
            Place::Json(_) | Place::Form(_) | Place::Item(_) => None,
        };
        name.ok_or_else(|| cannot("signature", "a signature inside the body"))
    }

    /// What must be on the request before its text can be built.
    fn fill_in(&self, request: &mut Unsigned, now: Timestamp) -> Result<(), SchemeFault> {
        if let Some(rule) = &self.sent
            && let Source::Header(name) = &rule.source
        {
            put(&mut request.headers, name, &Moment::write(rule.unit, now))?;
        }
        // A type is not made up.
        let ids = self.event_id.iter().filter_map(|entry| entry.alternatives.first().map(|(source, _)| source));
        let ids = ids.filter(|source| Some(*source) != self.event_type.as_ref());
        for (index, source) in self.id.iter().chain(ids).enumerate() {
            if let Source::Header(name) = source
                && !request.headers.contains_key(name)
            {
                let id = digest(super::HashName::Sha256, format!("{now} {index} {}", name.as_str()).as_bytes());
                put(
                    &mut request.headers,
                    name,
                    &format!("evt_{}", encode(Encoding::Hex, id.get(..12).unwrap_or(&id))),
                )?;
            }
        }
        self.list_signed_headers(request)?;
        self.digest_body(request);
        Ok(())
    }

    fn list_signed_headers(&self, request: &mut Unsigned) -> Result<(), SchemeFault> {
        let time = self.sent.as_ref().and_then(|rule| rule.source.header());
        let lists = self.signed.parts.iter().filter(|part| matches!(part, Part::SignedHeaders(_)));
        for list in lists.filter_map(Part::header) {
            let mut names: Vec<&str> = time.into_iter().chain([list]).map(HeaderName::as_str).collect();
            names.sort_unstable();
            put(&mut request.headers, list, &names.join(","))?;
        }
        Ok(())
    }

    /// A body that is no form is signed by its digest in the address, where the scheme has one.
    fn digest_body(&self, request: &mut Unsigned) {
        let Some(rule) = &self.body_digest else { return };
        let is_form = request
            .headers
            .get(http::header::CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(b"application/x-www-form-urlencoded"));
        let query = query_of(&request.url);
        if is_form || request.body.is_empty() || query_value(query, &rule.query).is_ok_and(|value| value.is_some()) {
            return;
        }
        let mark = if query.is_some() { '&' } else { '?' };
        let text = encode(rule.encoding, &digest(rule.hash, &request.body));
        let name = String::from_utf8_lossy(&rule.query).into_owned();
        request.url = format!("{}{mark}{name}={text}", request.url);
    }

    fn time_to_sign(&self, request: &Unsigned, now: Timestamp) -> Option<Vec<u8>> {
        let rule = self.sent.as_ref()?;
        match &rule.source {
            Source::Beside(_) | Source::Header(_) => Some(Moment::write(rule.unit, now).into_bytes()),
            source @ (Source::Json(_) | Source::Form(_) | Source::Query(_) | Source::Claim(_)) => {
                let mut form = Form::default();
                let form = form_of(self, &request.body, &mut form);
                let reading = Reading::new(self, subject(request), form);
                reading.value(source).ok().flatten().map(std::borrow::Cow::into_owned)
            }
        }
    }

    fn with_message<T>(
        &self,
        request: &Unsigned,
        time: Option<&[u8]>,
        use_it: impl FnOnce(&Message<'_>) -> T,
    ) -> Result<T, SchemeFault> {
        let refused = |_: Refusal| cannot("signed", "a request without all that is signed");
        let mut form = Form::default();
        let form = form_of(self, &request.body, &mut form);
        let reading = Reading::new(self, subject(request), form);
        let digested = match &self.body_digest {
            Some(rule) => {
                Read::when(query_value(query_of(&request.url), &rule.query).is_ok_and(|value| value.is_some()))
            }
            None => Read::No,
        };
        let address = Address::parse(&request.url);
        let fill = Fill { time, address: &address, digested, item: &[] };
        let mut message = Message::default();
        reading.render(self, &fill, &mut message).map_err(refused)?;
        Ok(use_it(&message))
    }

    /// The signature as the header holds it.
    fn written(&self, signature: &str, time: Option<&[u8]>) -> Vec<u8> {
        let notation = &self.notation;
        let mut fields: Vec<Vec<u8>> = notation.lead.iter().map(|_| time.unwrap_or_default().to_vec()).collect();
        let named = |name: &[u8], value: &[u8]| match notation.kv {
            Some(kv) => [name, &[kv], value].concat(),
            None => value.to_vec(),
        };
        if let (Some(name), true) = (&notation.time, notation.lead.is_empty()) {
            fields.push(named(name, time.unwrap_or_default()));
        }
        let value = [notation.prefix.as_slice(), signature.as_bytes()].concat();
        fields.push(named(notation.pick.as_deref().unwrap_or(b"key"), &value));
        fields.join([notation.split.unwrap_or(b',')].as_slice())
    }
}

fn subject(request: &Unsigned) -> Subject<'_> {
    Subject {
        method: &request.method,
        address: Address::parse(&request.url),
        headers: &request.headers,
        body: &request.body,
    }
}

fn query_of(url: &str) -> Option<&str> {
    url.split_once('?').map(|(_, query)| query)
}

fn put(headers: &mut Headers, name: &HeaderName, value: &str) -> Result<(), SchemeFault> {
    let value = HeaderValue::from_str(value).map_err(|_| cannot("require", "a text that no header can hold"))?;
    headers.insert(name, value);
    Ok(())
}

fn cannot(key: &str, found: &str) -> SchemeFault {
    SchemeFault::new(key, found, "a scheme that can be signed here: a signature, token or password in a header")
}

fn no_private_key() -> SchemeFault {
    SchemeFault::new(
        "secrets",
        "a public key, which checks signatures and makes none",
        "a secret that both sides share",
    )
}
