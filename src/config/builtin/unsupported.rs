//! Providers that are known and cannot be checked here, each with its reason and with what to do instead.
//!
//! A request is checked by what it and the configuration hold. These need more than that: a key that has to be
//! fetched, a hash that proves nothing today, or a text that the scheme language cannot build.

/// A provider that is refused at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// Its name, as the others have theirs.
    pub name: &'static str,
    /// Why it cannot be checked here.
    pub reason: &'static str,
    /// What to do instead, as what is expected in its place.
    pub instead: &'static str,
    /// The provider's page or library.
    pub source: &'static str,
}

impl Unsupported {
    /// Reason and remedy in one sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        format!("{}; instead: {}", self.reason, self.instead)
    }
}

/// In the order of the names.
pub(super) const UNSUPPORTED: &[Unsupported] = &[
    Unsupported {
        name: "aws_sns",
        reason: "its RSA signature needs a certificate that the request names and the receiver fetches",
        instead: "its path in [passthrough] and the check in the application with sns-validator, or SNS delivering to a queue",
        source: "npm sns-validator 0.3.5",
    },
    Unsupported {
        name: "dropbox_sign",
        reason: "it sends a multipart form and signs two values inside it, not the form",
        instead: "its path in [passthrough] and the check in the application with Dropbox Sign's library",
        source: "Dropbox Sign, Events and callbacks",
    },
    Unsupported {
        name: "google_pubsub",
        reason: "its RSA-signed token needs Google's keys, which change and have to be fetched, and signs no body",
        instead: "its path in [passthrough] and the check in the application with google-auth-library",
        source: "https://cloud.google.com/pubsub/docs/authenticate-push-subscriptions",
    },
    Unsupported {
        name: "mercado_pago",
        reason: "it signs parts of the address that may be missing, and no byte of the body",
        instead: "its path in [passthrough], and the application asking Mercado Pago for the payment that is named",
        source: "Mercado Pago, Webhooks",
    },
    Unsupported {
        name: "paddle_classic",
        reason: "its RSA signature with SHA-1 covers the form as PHP would serialise it",
        instead: "Paddle Billing (provider = \"paddle\"), or its path in [passthrough] and the check in the application",
        source: "https://developer.paddle.com/classic",
    },
    Unsupported {
        name: "patreon",
        reason: "its signature is an HMAC with MD5, which is not offered here",
        instead: "its path in [passthrough] and the check in the application",
        source: "Patreon, Webhooks",
    },
    Unsupported {
        name: "paypal",
        reason: "its RSA signature needs a certificate that the request names and the receiver fetches",
        instead: "its path in [passthrough] and the check in the application with PayPal's verify-webhook-signature call",
        source: "https://developer.paypal.com/api/webhooks/v1/",
    },
    Unsupported {
        name: "plaid",
        reason: "its signed token needs a key that has to be fetched from Plaid with the account's own credentials",
        instead: "its path in [passthrough] and the check in the application with Plaid's library",
        source: "https://plaid.com/docs/api/webhooks/webhook-verification",
    },
];
