//! The list of hypotheses: what each means, whose doing it is, how it is put right, and which check tells. How the
//! checks are made is in the files beside.

use super::Whose;
use super::hypothesis::{Hypothesis, any, hint, riddle, right, wrong};
use super::{address, body, clock, notation, secrets, seen, signed, token};

/// All hypotheses, in the order in which they are tested: cheap ones first.
pub fn hypotheses() -> impl Iterator<Item = &'static Hypothesis> {
    [FACTS, SECRETS, NOTATION, TOKEN, SIGNED, TIMES, ADDRESS, BODY, MISSING, HINTS].into_iter().flatten()
}

/// What is so, whatever was signed.
const FACTS: &[Hypothesis] = &[
    any(
        "method",
        "the method is not one that the route takes",
        Whose::Sender,
        "let the sender use another method, or add this one to the route's `methods`",
        seen::method,
    ),
    any(
        "body-too-large",
        "the body is longer than the route takes",
        Whose::Operator,
        "raise the route's `max_body_bytes`",
        seen::body_too_large,
    ),
    right(
        "required-header",
        "a header that the provider always sends is missing or has another value",
        Whose::Proxy,
        "see whether a proxy drops or changes the header",
        seen::required_header,
    ),
    right(
        "connection-header",
        "the `Connection` header declares the signature's header to end at this hop",
        Whose::Proxy,
        "take the name out of the `Connection` header: the application could not check what it never gets",
        seen::connection_header,
    ),
];

const SECRETS: &[Hypothesis] = &[
    wrong(
        "secret-whitespace",
        "the secret has a newline or blanks at an end, on one side",
        Whose::Operator,
        "store the secret without what surrounds it: `printf %s \"$SECRET\" > FILE`",
        secrets::whitespace,
    ),
    wrong(
        "secret-quoted",
        "the secret has quotes around it, on one side",
        Whose::Operator,
        "store the secret without its quotes: environment files keep them",
        secrets::quoted,
    ),
    wrong(
        "secret-base64",
        "the secret is base64, and the key is what it decodes to",
        Whose::Operator,
        "set `key = { encoding = \"base64\" }` for the route",
        secrets::base64,
    ),
    wrong(
        "secret-hex",
        "the secret is hex, and the key is what it decodes to",
        Whose::Operator,
        "set `key = { encoding = \"hex\" }` for the route",
        secrets::hex,
    ),
    wrong(
        "secret-as-text",
        "the secret's text is the key as it is, and is not decoded",
        Whose::Operator,
        "set `key = { encoding = \"utf8\" }` for the route",
        secrets::as_text,
    ),
    wrong(
        "secret-prefix",
        "a prefix such as `whsec_` belongs to the key, or does not",
        Whose::Operator,
        "set `key.strip` for the route, or take the secret as the provider shows it",
        secrets::prefix,
    ),
    wrong(
        "secret-of-another-route",
        "it is signed with the secret of another route",
        Whose::Operator,
        "give the sender this route's secret or the other route's address",
        secrets::of_another_route,
    ),
    wrong(
        "secret-expired",
        "it is signed with a secret of this route that has ended",
        Whose::Sender,
        "let the sender use the new secret, or set its `until` later",
        secrets::expired,
    ),
];

const NOTATION: &[Hypothesis] = &[
    wrong(
        "signature-encoding",
        "the signature is written in another encoding: hex, base64 or base64url",
        Whose::Operator,
        "set `signature.encoding` for the route",
        notation::encoding,
    ),
    wrong(
        "signature-hash",
        "another hash function is used: SHA-1, SHA-256, SHA-384 or SHA-512",
        Whose::Operator,
        "set `mac` for the route, or the algorithm at the sender",
        notation::hash,
    ),
    wrong(
        "signature-prefix",
        "the prefix before the signature is missing, doubled, or another one",
        Whose::Operator,
        "set `signature.prefix` for the route to what the sender writes",
        notation::prefix,
    ),
    wrong(
        "signature-field",
        "the signature stands in another field of the header",
        Whose::Operator,
        "set `signature.pick` for the route to the field that the sender writes",
        notation::field,
    ),
    wrong(
        "signature-joined",
        "a proxy joined several values of the header into one",
        Whose::Proxy,
        "let the proxy pass header lines on as they come, and only one of the signature",
        notation::joined,
    ),
    wrong(
        "signature-repeated",
        "a header that may come once came several times",
        Whose::Proxy,
        "see who adds the second header: a proxy that sets it must not append it",
        notation::repeated,
    ),
    wrong(
        "signature-quoted",
        "the signature has quotes, blanks or percent escapes in it",
        Whose::Sender,
        "send the signature as the provider documents it",
        notation::quoted,
    ),
    wrong(
        "signature-elsewhere",
        "the signature stands in another header",
        Whose::Operator,
        "set `signature.header` for the route to that header, or undo the renaming in the proxy",
        notation::elsewhere,
    ),
    wrong(
        "other-provider",
        "the request is signed as another provider signs",
        Whose::Operator,
        "set the route's `provider` to that one",
        notation::other_provider,
    ),
];

const TOKEN: &[Hypothesis] = &[
    wrong(
        "token-claim",
        "the web token is signed right, and one of its claims is not what is wanted",
        Whose::Operator,
        "set the claim for the route, or let the sender make it",
        token::claim,
    ),
    wrong(
        "token-algorithm",
        "the web token is signed with another hash: HS256, HS384 or HS512",
        Whose::Operator,
        "set `mac` for the route, or the algorithm at the sender",
        token::hash,
    ),
    wrong(
        "token-prefix",
        "something else stands before the web token",
        Whose::Operator,
        "set `token.prefix` for the route to what the sender writes",
        token::prefix,
    ),
];

const SIGNED: &[Hypothesis] = &[
    wrong(
        "signed-body-alone",
        "the body alone was signed, without the time or the id before it",
        Whose::Sender,
        "let the sender sign what the provider documents, or set `signed = \"{body}\"` for the route",
        signed::body_alone,
    ),
    wrong(
        "signed-text",
        "the parts of what was signed are put together in another way",
        Whose::Operator,
        "set `signed` for the route to this text",
        signed::text,
    ),
];

const TIMES: &[Hypothesis] = &[
    any(
        "timestamp-unit",
        "the time is written in another unit: seconds, milliseconds or RFC 3339",
        Whose::Operator,
        "set `timestamp.unit` for the route",
        clock::unit,
    ),
    any(
        "timestamp-elsewhere",
        "the time of sending stands in another header",
        Whose::Operator,
        "set `timestamp.from` for the route to that header",
        clock::elsewhere,
    ),
    right(
        "clock-offset",
        "everything is right but the time: a clock is wrong, or the request was held back or sent again",
        Whose::Clock,
        "compare both clocks with a time server; if they are right, look for what held the request back",
        clock::offset,
    ),
    right(
        "time-zone",
        "the time is off by whole hours: a local time that is taken for UTC",
        Whose::Sender,
        "let the sender write the time in UTC",
        clock::zone,
    ),
    right(
        "event-too-old",
        "it was sent just now, and what it reports happened too long ago",
        Whose::Sender,
        "if senders repeat for longer, raise `signed_at.max_age` and `dedup.ttl` for the route",
        clock::event_too_old,
    ),
];

const ADDRESS: &[Hypothesis] = &[
    wrong(
        "url-host",
        "another host was signed",
        Whose::Operator,
        "set the route's `public_url` to the address that the sender calls",
        address::host,
    ),
    wrong(
        "url-path",
        "another path was signed",
        Whose::Operator,
        "set the route's `public_url` to the address that the sender calls",
        address::path,
    ),
    wrong(
        "url-scheme",
        "http was signed for https, or the other way round",
        Whose::Operator,
        "set the route's `public_url`, or name the proxy that ends TLS in `server.trusted_proxies`",
        address::scheme,
    ),
    wrong(
        "url-port",
        "the address was signed with or without its port",
        Whose::Operator,
        "set the route's `public_url` with the port that the sender calls",
        address::port,
    ),
    wrong(
        "url-slash",
        "the address was signed with or without a slash at its end",
        Whose::Operator,
        "set the route's `public_url` with the slash that the sender calls",
        address::slash,
    ),
    wrong(
        "url-query",
        "the address was signed without its query",
        Whose::Sender,
        "call the gateway without a query, or let the sender sign it",
        address::query,
    ),
];

const BODY: &[Hypothesis] = &[
    wrong(
        "body-final-newline",
        "the body gained or lost a newline at its end",
        Whose::Proxy,
        "send the bytes that were signed: `curl --data-binary`, no editor, no template",
        body::final_newline,
    ),
    wrong(
        "body-line-ends",
        "line ends were changed between CRLF and LF",
        Whose::Proxy,
        "send the bytes that were signed, without a conversion of line ends",
        body::line_ends,
    ),
    wrong(
        "body-bom",
        "the body gained or lost a byte order mark",
        Whose::Sender,
        "sign the bytes that are sent, mark included",
        body::bom,
    ),
    wrong(
        "body-compressed",
        "the body came compressed, and what it decompresses to was signed",
        Whose::Proxy,
        "do not compress requests between the sender and here, or let the sender sign the compressed bytes",
        body::compressed,
    ),
    wrong(
        "body-not-signed",
        "an empty body was signed",
        Whose::Sender,
        "let the sender sign the body that it sends: its framework may have read it before",
        body::not_signed,
    ),
    wrong(
        "body-wrapped",
        "what was signed is wrapped in the body: as a JSON string or as a field of a form",
        Whose::Sender,
        "send what was signed as it is, or sign what is sent",
        body::wrapped,
    ),
    wrong(
        "body-charset",
        "the body was converted between UTF-8 and Latin-1",
        Whose::Proxy,
        "pass the bytes on as they come, and sign them as UTF-8",
        body::charset,
    ),
    riddle(
        "body-form-encoding",
        "the form was escaped anew",
        Whose::Proxy,
        "pass the bytes on as they come, or sign the form as it is sent",
        body::form_encoding,
    ),
    riddle(
        "body-reserialised",
        "the JSON was written anew after it was signed: spaces, order, escapes or numbers differ",
        Whose::Sender,
        "sign the bytes that are sent, and send them: serialise once",
        body::reserialised,
    ),
];

/// What is missing, if nothing that fits was found in its place.
const MISSING: &[Hypothesis] = &[
    any(
        "signature-missing",
        "there is no signature",
        Whose::Sender,
        "switch signing on at the sender and give it the route's secret; if it signs, see which proxy drops the header",
        seen::signature_missing,
    ),
    any(
        "timestamp-missing",
        "there is no time of sending",
        Whose::Proxy,
        "see whether a proxy drops the header, and whether the sender is configured to send it",
        seen::timestamp_missing,
    ),
];

/// What is worth a look and proves nothing.
const HINTS: &[Hypothesis] = &[
    hint(
        "looks-like-another-provider",
        "the headers are those of another provider",
        Whose::Operator,
        "see whether the sender calls the right route, and whether the route has the right `provider`",
        seen::looks_like,
    ),
    hint(
        "signature-length",
        "the signature is longer or shorter than it must be",
        Whose::Operator,
        "compare `mac` and `signature.encoding` of the route with the sender's settings",
        seen::signature_length,
    ),
    hint(
        "body-empty",
        "the body is empty",
        Whose::Proxy,
        "see whether a proxy or a redirect lost the body",
        seen::body_empty,
    ),
    hint(
        "content-encoding",
        "the body has a content encoding",
        Whose::Proxy,
        "see who compresses: the signature must be over the bytes as they come here",
        seen::content_encoding,
    ),
    hint(
        "content-length",
        "`Content-Length` is not the length of the body",
        Whose::Proxy,
        "the body was changed after the header was written: take the bytes as they were sent",
        seen::content_length,
    ),
    hint(
        "chunked",
        "the body came in chunks",
        Whose::Proxy,
        "a proxy that streams may also rewrite: compare the body's SHA-256 with the sender's",
        seen::chunked,
    ),
];
