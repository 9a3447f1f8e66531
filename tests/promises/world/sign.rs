//! How five providers sign, written down once more from their documents, apart from the crate's own interpreter: if
//! the two disagree, a test says so.

use data_encoding::{BASE64, HEXLOWER};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::clock::now_unix;
use super::sender::Request;

/// A sender whose signature the gateway knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Provider {
    /// HMAC over the body, the time in an unsigned header.
    Veedeo,
    /// HMAC over the body.
    VideoPilot,
    /// HMAC over the body, the id in an unsigned header.
    GitHub,
    /// HMAC over time and body.
    Stripe,
    /// HMAC over id, time and body.
    StandardWebhooks,
}

impl Provider {
    /// All of them.
    pub(crate) const ALL: [Self; 5] =
        [Self::Veedeo, Self::VideoPilot, Self::GitHub, Self::Stripe, Self::StandardWebhooks];

    /// Its built-in name, and the name of its route in these tests.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Veedeo => "veedeo",
            Self::VideoPilot => "videopilot",
            Self::GitHub => "github",
            Self::Stripe => "stripe",
            Self::StandardWebhooks => "standardwebhooks",
        }
    }

    /// Its secret in these tests. No output of the gateway may ever contain one of these.
    pub(crate) const fn secret(self) -> &'static str {
        match self {
            Self::Veedeo => "canary-veedeo-8d1f0b7c52e94f63a0",
            Self::VideoPilot => "canary-videopilot-1b9a6e07d4c85f",
            Self::GitHub => "canary-github-77e0c3a9514b4d2f8e",
            Self::Stripe => "whsec_canary-stripe-0f5d3e2a918b",
            Self::StandardWebhooks => "whsec_Y2FuYXJ5LXN0YW5kYXJkLTJhNGI2YzhkMGUx",
        }
    }

    /// The variable that gives the gateway the secret.
    pub(crate) fn variable(self) -> String {
        format!("SECRET_OF_{}", self.name().to_ascii_uppercase())
    }

    /// The path of its route in these tests.
    pub(crate) fn path(self) -> String {
        format!("/webhooks/{}", self.name())
    }

    /// A request with this body, signed now with the right secret.
    pub(crate) fn sign(self, body: impl Into<Vec<u8>>) -> Request {
        self.sign_at(body, now_unix(), self.secret())
    }

    /// A request with this body, signed with `secret` at `unix` seconds.
    pub(crate) fn sign_at(self, body: impl Into<Vec<u8>>, unix: i64, secret: &str) -> Request {
        let body = body.into();
        let id = short_name(&body);
        self.sign_as(body, &id, unix, secret)
    }

    /// A request with this body and this message id, where the provider has one.
    pub(crate) fn sign_as(self, body: impl Into<Vec<u8>>, id: &str, unix: i64, secret: &str) -> Request {
        let body = body.into();
        let request = Request::post(&self.path(), body.clone());
        match self {
            Self::Veedeo => request
                .with("X-Veedeo-Signature", sha256_equals(secret, &body))
                .with("X-Veedeo-Timestamp", unix.to_string()),
            Self::VideoPilot => request.with("X-VideoPilot-Signature", sha256_equals(secret, &body)),
            Self::GitHub => request
                .with("X-GitHub-Delivery", id)
                .with("X-GitHub-Event", "push")
                .with("X-Hub-Signature-256", sha256_equals(secret, &body)),
            Self::Stripe => {
                let signed = [format!("{unix}.").as_bytes(), &body].concat();
                let mac = HEXLOWER.encode(&mac(secret.as_bytes(), &signed));
                request.with("Stripe-Signature", format!("t={unix},v1={mac}"))
            }
            Self::StandardWebhooks => {
                let key = BASE64.decode(secret.trim_start_matches("whsec_").as_bytes()).expect("a base64 secret");
                let signed = [format!("{id}.{unix}.").as_bytes(), &body].concat();
                request
                    .with("webhook-id", id)
                    .with("webhook-timestamp", unix.to_string())
                    .with("webhook-signature", format!("v1,{}", BASE64.encode(&mac(&key, &signed))))
            }
        }
    }
}

fn short_name(body: &[u8]) -> String {
    HEXLOWER.encode(&mac(b"a delivery id", body)[..12])
}

fn sha256_equals(secret: &str, body: &[u8]) -> String {
    format!("sha256={}", HEXLOWER.encode(&mac(secret.as_bytes(), body)))
}

fn mac(key: &[u8], bytes: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(bytes);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(request: &Request, name: &str) -> String {
        let found = request.headers.iter().find(|(n, _)| n == name).expect("the header is there");
        String::from_utf8(found.1.clone()).unwrap()
    }

    #[test]
    fn the_mac_is_that_of_rfc_4231() {
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(HEXLOWER.encode(&mac(b"Jefe", b"what do ya want for nothing?")), expected);
    }

    #[test]
    fn github_signs_as_its_documentation_shows() {
        let request = Provider::GitHub.sign_at("Hello, World!", 0, "It's a Secret to Everybody");
        let expected = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        assert_eq!(header(&request, "X-Hub-Signature-256"), expected);
    }

    #[test]
    fn standard_webhooks_signs_as_its_specification_shows() {
        let (id, secret) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let request = Provider::StandardWebhooks.sign_as(r#"{"test": 2432232314}"#, id, 1_614_265_330, secret);
        assert_eq!(header(&request, "webhook-signature"), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn stripe_signs_the_time_with_the_body() {
        let [one, two] = [1, 2].map(|at| header(&Provider::Stripe.sign_at("{}", at, "s"), "Stripe-Signature"));
        assert!(one.starts_with("t=1,v1=") && two.starts_with("t=2,v1="));
        assert_ne!(one[7..], two[7..]);
    }

    #[test]
    fn every_provider_has_its_own_route_and_secret() {
        for provider in Provider::ALL {
            let others = Provider::ALL.into_iter().filter(|other| *other != provider);
            for other in others {
                assert_ne!((provider.path(), provider.secret()), (other.path(), other.secret()));
                assert_ne!(provider.variable(), other.variable());
            }
        }
    }
}
