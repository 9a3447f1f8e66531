//! Secrets: references resolved to bytes. A blank or unreadable one stops the start and is named by its place; its
//! value is in no report.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{Check, keys};
use crate::config::fault::FaultKind;
use crate::config::find::reason;
use crate::config::raw::{RawPlaces, RawReference, RawSecret};
use crate::domain::scheme::Scheme;
use crate::domain::secret::{RouteSecret, Secret, SecretOrigin};
use crate::domain::time::Timestamp;

/// Longest secret file that is read. The longest real secret, a public key, has under 1 KiB.
const MOST_BYTES: u64 = 64 * 1024;
/// Shorter secrets are worth a warning: below 128 bits a signature can be guessed off line.
const SHORT_BYTES: usize = 16;
/// Set by systemd for services with `LoadCredential=`.
const CREDENTIALS_VARIABLE: &str = "CREDENTIALS_DIRECTORY";

/// A secret of a route, before it is known what its scheme makes of it.
pub(super) struct GivenSecret {
    index: usize,
    secret: Secret,
    origin: SecretOrigin,
    until: Option<Timestamp>,
}

impl Check<'_> {
    /// The secrets of a route; a fault if all of them have expired.
    pub(super) fn route_secrets(&mut self, path: &[String], raw: &[RawSecret]) -> Vec<GivenSecret> {
        let now = self.layers.environment.now();
        let mut secrets = Vec::new();
        let mut expired = 0;
        for (index, raw) in raw.iter().enumerate() {
            let path: Vec<String> = path.iter().cloned().chain([index.to_string()]).collect();
            let until = raw.until.as_ref().map(|until| until.0);
            if let Some(until) = until.filter(|until| *until <= now) {
                expired += 1;
                self.warn(&path, format!("it expired at {until} and is no longer tried; it can be removed"));
            }
            if let Some((secret, origin)) = self.secret(&path, raw) {
                self.short(&path, &origin, &secret);
                secrets.push(GivenSecret { index, secret, origin, until });
            }
        }
        if expired == raw.len() && expired > 0 {
            self.fault(FaultKind::Secret, path, "a list of secrets that have all expired", "at least one live secret");
        }
        secrets
    }

    /// The secrets made ready for the route's scheme; every one must give a key under it.
    pub(super) fn ready(&mut self, route: &str, scheme: &Scheme, given: Vec<GivenSecret>) -> Vec<RouteSecret> {
        let mut ready = Vec::with_capacity(given.len());
        for GivenSecret { index, secret, origin, until } in given {
            match scheme.prepare(&secret) {
                Ok(key) => ready.push(RouteSecret { secret, key, origin, until }),
                Err(fault) => {
                    let key = keys(&["routes", route, "secrets", &index.to_string()]);
                    self.fault(FaultKind::Secret, &key, format!("{} ({origin})", fault.found), fault.expected);
                }
            }
        }
        ready
    }

    /// The token of the admin listener, which a header has to hold (RFC 9110 section 5.5): one that none can would let nobody in.
    pub(super) fn admin_token(&mut self, raw: &RawReference) -> Option<Secret> {
        let path = keys(&["admin_token"]);
        let (token, origin) = self.secret(&path, raw)?;
        let bytes = token.expose();
        let edges = [bytes.first(), bytes.last()].into_iter().flatten().any(u8::is_ascii_whitespace);
        if edges || bytes.iter().any(u8::is_ascii_control) {
            let what = if edges { "with white space at an end" } else { "with a control character inside" };
            self.fault(FaultKind::Secret, &path, format!("{what} ({origin})"), "a token that a header can hold");
            return None;
        }
        Some(token)
    }

    /// The bytes of one secret and where they came from.
    pub(super) fn secret<'r>(
        &mut self,
        path: &[String],
        raw: impl Into<RawPlaces<'r>>,
    ) -> Option<(Secret, SecretOrigin)> {
        let raw: RawPlaces<'_> = raw.into();
        let origin = match (raw.env, raw.file, raw.credential, raw.literal) {
            (Some(name), None, None, None) => SecretOrigin::Env(name.0.0.clone()),
            (None, Some(file), None, None) => SecretOrigin::File(file.0.0.clone()),
            (None, None, Some(name), None) => SecretOrigin::Credential(name.0.0.clone()),
            (None, None, None, Some(_)) => SecretOrigin::Literal,
            (None, None, None, None) => {
                self.missing_source(path);
                return None;
            }
            _ => {
                self.fault(FaultKind::Value, path, "a secret from several places", EXPECTED);
                return None;
            }
        };
        let bytes = match &origin {
            SecretOrigin::Env(name) => self.read_variable(path, name)?,
            SecretOrigin::File(file) => {
                let file = self.layers.directory(path).join(file);
                self.read_file(path, &file)?
            }
            SecretOrigin::Credential(name) => self.read_credential(path, name)?,
            SecretOrigin::Literal => {
                self.warn(path, "it is written into the configuration; that is for development only".to_owned());
                raw.literal?.0.clone().into_bytes()
            }
        };
        let bytes = Zeroizing::new(bytes);
        if bytes.iter().all(u8::is_ascii_whitespace) {
            let what = if bytes.is_empty() { "empty" } else { "blank" };
            self.fault(FaultKind::Secret, path, format!("{what} ({origin})"), "a secret");
            return None;
        }
        if bytes.first().is_some_and(u8::is_ascii_whitespace) || bytes.last().is_some_and(u8::is_ascii_whitespace) {
            self.warn(path, format!("{origin} begins or ends with white space, which counts as part of the secret"));
        }
        Some((Secret::new(bytes.to_vec()), origin))
    }

    fn missing_source(&mut self, path: &[String]) {
        if !self.faulted(path) {
            self.fault(FaultKind::Value, path, "a secret from nowhere", EXPECTED);
        }
    }

    fn short(&mut self, path: &[String], origin: &SecretOrigin, secret: &Secret) {
        let length = secret.expose().len();
        if length < SHORT_BYTES {
            self.warn(path, format!("{origin} is {length} bytes; use 32 or more"));
        }
    }

    fn read_variable(&mut self, path: &[String], name: &str) -> Option<Vec<u8>> {
        let value = self.layers.environment.get(name).map(|value| value.as_bytes().to_vec());
        if value.is_none() {
            let expected = format!("the variable {name}, set to the secret");
            self.fault(FaultKind::Secret, path, format!("unresolved: the variable {name} is not set"), expected);
        }
        value
    }

    fn read_credential(&mut self, path: &[String], name: &str) -> Option<Vec<u8>> {
        let directory = self.layers.environment.get(CREDENTIALS_VARIABLE).map(OsStr::to_owned);
        let Some(directory) = directory.filter(|directory| !directory.is_empty()) else {
            let found = format!("unresolved: {CREDENTIALS_VARIABLE} is not set, so there is no credential {name}");
            self.fault(FaultKind::Secret, path, found, format!("a systemd unit with LoadCredential={name}:…"));
            return None;
        };
        if name.contains('/') || name.starts_with('.') {
            self.fault(FaultKind::Secret, path, "a credential with a path", "the plain name of a credential");
            return None;
        }
        self.read_file(path, &PathBuf::from(directory).join(name))
    }

    fn read_file(&mut self, path: &[String], file: &Path) -> Option<Vec<u8>> {
        let (mut bytes, mode) = match bounded(file) {
            Ok(read) => read,
            Err(error) => {
                let found = format!("unresolved: cannot read {}: {}", file.display(), reason(&error));
                self.fault(FaultKind::Secret, path, found, "a readable file of at most 64KiB");
                return None;
            }
        };
        self.files.push(file.to_owned());
        if mode & 0o004 != 0 {
            self.warn(
                path,
                format!("{} can be read by everyone on this machine (mode {:04o})", file.display(), mode & 0o7777),
            );
        }
        let length = bytes.len();
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        }
        if bytes.len() < length {
            self.note(
                path,
                format!("{} ends with a line break, which is not taken as part of the secret", file.display()),
            );
        }
        Some(bytes)
    }
}

const EXPECTED: &str = "exactly one of `env`, `file`, `credential` and `literal`";

fn bounded(file: &Path) -> std::io::Result<(Vec<u8>, u32)> {
    let file = File::open(file)?;
    let mode = file.metadata()?.mode();
    let mut bytes = Vec::new();
    let read = file.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    if u64::try_from(read).unwrap_or(u64::MAX) > MOST_BYTES {
        return Err(std::io::ErrorKind::FileTooLarge.into());
    }
    Ok((bytes, mode))
}
