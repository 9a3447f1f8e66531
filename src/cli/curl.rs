//! A curl command as people paste it: taken apart as a shell would, and read for the request that it sends. Nothing is
//! run and nothing is sent; files that it names with @ are read.
//!
//! What only a shell knows (variables, substitutions) and what curl makes up itself (multipart forms) is refused: the
//! bytes of the request would be guessed.

use std::path::Path;

use bytes::Bytes;
use data_encoding::BASE64;
use http::HeaderValue;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, COOKIE, HOST, HeaderName, REFERER, USER_AGENT};

use super::verify::request;
use crate::domain::headers::Headers;
use crate::domain::inbound::Inbound;

/// What curl says a body is if nobody says it.
const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");

/// Options with a value that does not change the request.
const IDLE: &[&str] = &[
    "-o",
    "--output",
    "-m",
    "--max-time",
    "--connect-timeout",
    "--resolve",
    "-w",
    "--write-out",
    "--cacert",
    "--capath",
    "-E",
    "--cert",
    "--key",
    "-x",
    "--proxy",
    "--retry",
    "--retry-delay",
    "-D",
    "--dump-header",
    "-c",
    "--cookie-jar",
    "--limit-rate",
    "--interface",
    "--max-redirs",
    "--tls-max",
    "--ciphers",
    "--connect-to",
    "--trace",
    "--trace-ascii",
];
/// Options without a value that do not change the request.
const MUTE: &[&str] = &[
    "-s",
    "--silent",
    "-S",
    "--show-error",
    "-v",
    "--verbose",
    "-i",
    "--include",
    "-k",
    "--insecure",
    "-L",
    "--location",
    "-f",
    "--fail",
    "--fail-with-body",
    "-g",
    "--globoff",
    "-N",
    "--no-buffer",
    "--compressed",
    "--http1.1",
    "--http1.0",
    "--http2",
    "-0",
    "-#",
    "--progress-bar",
    "-4",
    "-6",
    "--ipv4",
    "--ipv6",
    "--path-as-is",
    "--no-progress-meter",
    "--tlsv1.2",
    "--tlsv1.3",
    "-j",
    "-q",
];

/// The request that a command sends. `read` gives the bytes of a file that it names.
pub(super) fn parse(text: &str, read: &dyn Fn(&Path) -> Result<Vec<u8>, String>) -> Result<Inbound, String> {
    let mut words = words(text)?.into_iter();
    match words.next() {
        Some(first) if first == b"curl" || first.ends_with(b"/curl") => {}
        Some(first) => return Err(format!("it begins with {:?}, expected curl", String::from_utf8_lossy(&first))),
        None => return Err("there is no command".to_owned()),
    }
    let mut command = Command::default();
    while let Some(word) = words.next() {
        command.take(&word, &mut words, read)?;
    }
    command.request()
}

/// What the options said so far.
#[derive(Default)]
struct Command {
    method: Option<String>,
    url: Option<String>,
    headers: Vec<(HeaderName, HeaderValue)>,
    removed: Vec<HeaderName>,
    body: Option<Vec<u8>>,
    json: bool,
}

impl Command {
    fn take(
        &mut self,
        word: &[u8],
        rest: &mut dyn Iterator<Item = Vec<u8>>,
        read: &dyn Fn(&Path) -> Result<Vec<u8>, String>,
    ) -> Result<(), String> {
        let text = std::str::from_utf8(word).map_err(|_| "an argument that is no text".to_owned())?;
        if text.starts_with("--") {
            let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
            return self.option(name, value.map(|value| value.as_bytes().to_vec()), rest, read);
        }
        let Some(mut cluster) = text.strip_prefix('-').filter(|cluster| !cluster.is_empty()) else {
            return self.set_url(text);
        };
        while let Some(letter) = cluster.chars().next() {
            cluster = cluster.get(letter.len_utf8()..).unwrap_or_default();
            let name = format!("-{letter}");
            if MUTE.contains(&name.as_str()) || letter == 'I' {
                self.option(&name, None, rest, read)?;
                continue;
            }
            let value = (!cluster.is_empty()).then(|| cluster.as_bytes().to_vec());
            return self.option(&name, value, rest, read);
        }
        Ok(())
    }

    fn option(
        &mut self,
        name: &str,
        value: Option<Vec<u8>>,
        rest: &mut dyn Iterator<Item = Vec<u8>>,
        read: &dyn Fn(&Path) -> Result<Vec<u8>, String>,
    ) -> Result<(), String> {
        if MUTE.contains(&name) {
            return Ok(());
        }
        if matches!(name, "-I" | "--head") {
            self.method = Some("HEAD".to_owned());
            return Ok(());
        }
        let value = value.or_else(|| rest.next()).ok_or_else(|| format!("{name} has no value"))?;
        let text = || String::from_utf8(value.clone()).map_err(|_| format!("{name} has a value that is no text"));
        match name {
            "-X" | "--request" => self.method = Some(text()?),
            "--url" => self.set_url(&text()?)?,
            "-H" | "--header" => self.header(&value)?,
            "-d" | "--data" | "--data-ascii" => {
                let is_file = value.first() == Some(&b'@');
                let mut data = from_file(value, read)?;
                if is_file {
                    data.retain(|byte| !matches!(byte, b'\r' | b'\n' | 0));
                }
                self.data(data, b"&");
            }
            "--data-binary" => {
                let data = from_file(value, read)?;
                self.data(data, b"&");
            }
            "--data-raw" => self.data(value, b"&"),
            "--json" => {
                let data = from_file(value, read)?;
                self.json = true;
                self.data(data, b"");
            }
            "-u" | "--user" => self.put(AUTHORIZATION, format!("Basic {}", BASE64.encode(&value)).as_bytes())?,
            "-A" | "--user-agent" => self.put(USER_AGENT, &value)?,
            "-e" | "--referer" => self.put(REFERER, &value)?,
            "-b" | "--cookie" if value.contains(&b'=') => self.put(COOKIE, &value)?,
            "--oauth2-bearer" => self.put(AUTHORIZATION, &[b"Bearer ".as_slice(), &value].concat())?,
            idle if IDLE.contains(&idle) => {}
            other => return Err(format!("{other}: what it sends cannot be told from the command")),
        }
        Ok(())
    }

    fn set_url(&mut self, text: &str) -> Result<(), String> {
        let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let text = text.split('#').next().unwrap_or_default().to_owned();
        match self.url.replace(text) {
            Some(_) => Err("it has two addresses".to_owned()),
            None => Ok(()),
        }
    }

    fn put(&mut self, name: HeaderName, value: &[u8]) -> Result<(), String> {
        let value = HeaderValue::from_bytes(value).map_err(|_| format!("{name} holds bytes that no header can"))?;
        self.headers.push((name, value));
        Ok(())
    }

    /// `Name: value`; `Name:` takes a header away, `Name;` sends it empty.
    fn header(&mut self, line: &[u8]) -> Result<(), String> {
        let shown = || String::from_utf8_lossy(line.get(..line.len().min(40)).unwrap_or(line)).into_owned();
        let wrong = || format!("-H {:?} is not `Name: value`", shown());
        let Some(at) = line.iter().position(|byte| *byte == b':') else {
            let name = line.strip_suffix(b";").ok_or_else(wrong)?;
            return self.put(HeaderName::from_bytes(name).map_err(|_| wrong())?, b"");
        };
        let (name, value) = line.split_at_checked(at).ok_or_else(wrong)?;
        let name = HeaderName::from_bytes(name.trim_ascii()).map_err(|_| wrong())?;
        match value.get(1..).unwrap_or_default().trim_ascii() {
            b"" => self.removed.push(name),
            value => self.put(name, value)?,
        }
        Ok(())
    }

    fn data(&mut self, data: Vec<u8>, between: &[u8]) {
        self.body = Some(match self.body.take() {
            Some(before) => [before.as_slice(), between, &data].concat(),
            None => data,
        });
    }

    fn request(self) -> Result<Inbound, String> {
        let url = self.url.ok_or("it has no address")?;
        let mut headers = Headers::new();
        for (name, value) in self.headers {
            headers.append(name, value);
        }
        let mut usual = |name: HeaderName, value: HeaderValue| {
            if !headers.contains_key(&name) && !self.removed.contains(&name) {
                headers.insert(name, value);
            }
        };
        if self.json {
            usual(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            usual(ACCEPT, HeaderValue::from_static("application/json"));
        } else if self.body.is_some() {
            usual(CONTENT_TYPE, FORM);
        }
        let method = self.method.unwrap_or_else(|| if self.body.is_some() { "POST".into() } else { "GET".into() });
        let mut inbound = request(&method, &url, headers, Bytes::from(self.body.unwrap_or_default()))?;
        if let Some(host) = inbound.headers.get(HOST).and_then(|host| host.to_str().ok()) {
            host.clone_into(&mut inbound.authority);
        }
        Ok(inbound)
    }
}

/// The value, or the bytes of the file that it names with `@`.
fn from_file(value: Vec<u8>, read: &dyn Fn(&Path) -> Result<Vec<u8>, String>) -> Result<Vec<u8>, String> {
    let Some(name) = value.strip_prefix(b"@") else { return Ok(value) };
    if name == b"-" {
        return Err("@- is what stdin held; save it in a file and name that".to_owned());
    }
    let name = std::str::from_utf8(name).map_err(|_| "a file whose name is no text".to_owned())?;
    read(Path::new(name))
}

/// The words of one command, up to a pipe, a redirection or the end of the list.
fn words(text: &str) -> Result<Vec<Vec<u8>>, String> {
    let mut reader = Words { rest: text.trim_start().trim_start_matches("$ "), word: None, done: Vec::new() };
    while let Some(c) = reader.next() {
        match c {
            '\\' => match reader.next() {
                Some('\n') | None => {}
                Some('\r') if reader.rest.starts_with('\n') => drop(reader.next()),
                Some(other) => reader.push(other),
            },
            '\'' => reader.single()?,
            '"' => reader.double()?,
            '$' if reader.rest.starts_with('\'') => reader.dollar()?,
            '$' | '`' => reader.refuse_expansion(c)?,
            '\n' if reader.word.is_none() && reader.done.is_empty() => {}
            '\n' | '|' | ';' | '&' | '>' | '<' => break,
            c if c.is_whitespace() => reader.end(),
            c => reader.push(c),
        }
    }
    reader.end();
    Ok(reader.done)
}

struct Words<'t> {
    rest: &'t str,
    word: Option<Vec<u8>>,
    done: Vec<Vec<u8>>,
}

impl Words<'_> {
    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = self.rest.get(c.len_utf8()..).unwrap_or_default();
        Some(c)
    }

    fn push(&mut self, c: char) {
        self.word.get_or_insert_default().extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }

    fn end(&mut self) {
        self.done.extend(self.word.take());
    }

    fn single(&mut self) -> Result<(), String> {
        self.word.get_or_insert_default();
        loop {
            match self.next().ok_or("a ' without its end")? {
                '\'' => return Ok(()),
                c => self.push(c),
            }
        }
    }

    fn double(&mut self) -> Result<(), String> {
        self.word.get_or_insert_default();
        loop {
            match self.next().ok_or("a \" without its end")? {
                '"' => return Ok(()),
                '\\' => match self.next().ok_or("a \" without its end")? {
                    '\n' => {}
                    c @ ('"' | '\\' | '$' | '`') => self.push(c),
                    c => {
                        self.push('\\');
                        self.push(c);
                    }
                },
                c @ ('$' | '`') => self.refuse_expansion(c)?,
                c => self.push(c),
            }
        }
    }

    /// A `$` that expands nothing is a `$`.
    fn refuse_expansion(&mut self, c: char) -> Result<(), String> {
        let next = self.rest.chars().next();
        let expands = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '{' | '(' | '@' | '*' | '#' | '?' | '$');
        if c == '`' || next.is_some_and(expands) {
            let name: String = self.rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            return Err(format!("{c}{name} is something that only the shell knows: put its value in its place"));
        }
        self.push(c);
        Ok(())
    }

    /// `$'…'` with its escapes, as browsers copy requests.
    fn dollar(&mut self) -> Result<(), String> {
        self.word.get_or_insert_default();
        self.next();
        loop {
            match self.next().ok_or("a $' without its end")? {
                '\'' => return Ok(()),
                '\\' => self.escape()?,
                c => self.push(c),
            }
        }
    }

    fn escape(&mut self) -> Result<(), String> {
        let c = self.next().ok_or("a $' without its end")?;
        let byte = match c {
            'n' => b'\n',
            't' => b'\t',
            'r' => b'\r',
            'a' => 7,
            'b' => 8,
            'f' => 12,
            'v' => 11,
            'e' | 'E' => 27,
            '0'..='7' => {
                let more = self.digits(8, 2);
                let number = c.to_digit(8).unwrap_or_default();
                let all = more.chars().fold(number, |n, digit| n * 8 + digit.to_digit(8).unwrap_or_default());
                u8::try_from(all).map_err(|_| "a \\ooo beyond a byte")?
            }
            'x' => {
                let digits = self.digits(16, 2);
                u8::from_str_radix(&digits, 16).map_err(|_| "a \\x without digits")?
            }
            'u' | 'U' => {
                let digits = self.digits(16, if c == 'u' { 4 } else { 8 });
                let code = u32::from_str_radix(&digits, 16).map_err(|_| "a \\u without digits")?;
                self.push(char::from_u32(code).ok_or("a \\u that is no character")?);
                return Ok(());
            }
            other => {
                self.push(other);
                return Ok(());
            }
        };
        self.word.get_or_insert_default().push(byte);
        Ok(())
    }

    fn digits(&mut self, radix: u32, most: usize) -> String {
        let digits: String = self.rest.chars().take(most).take_while(|c| c.is_digit(radix)).collect();
        self.rest = self.rest.get(digits.len()..).unwrap_or_default();
        digits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Inbound, String> {
        parse(text, &|path| match path.to_str() {
            Some("a.json") => Ok(b"{\r\n}\n".to_vec()),
            other => Err(format!("no file {other:?}")),
        })
    }

    #[test]
    fn a_pasted_command_is_the_request_that_it_sends() {
        let text = "$ curl -sS -XPOST 'https://h.example/a?b=1#c' \\\n  -H \"X-Sig: a\\\"b\" -H 'X-Two:2' -H 'Accept:' \\\r\n --data-raw $'{\"a\":\\'\\u00e9\\x0a}' | jq .";
        let inbound = of(text).unwrap();
        assert_eq!((inbound.method.as_str(), inbound.url(None).as_str()), ("POST", "https://h.example/a?b=1"));
        assert_eq!(inbound.headers.get("x-sig").unwrap(), "a\"b");
        assert_eq!(inbound.headers.get("x-two").unwrap(), "2");
        assert_eq!(inbound.headers.get("content-type").unwrap(), FORM);
        assert_eq!(&inbound.body[..], "{\"a\":'é\n}".as_bytes());
    }

    #[test]
    fn data_is_what_curl_makes_of_it() {
        let body = |options: &str| of(&format!("curl h.example {options}")).unwrap().body;
        assert_eq!(&body("-d a=1 -d b=2")[..], b"a=1&b=2");
        assert_eq!(&body("-d @a.json")[..], b"{}");
        assert_eq!(&body("--data-binary @a.json")[..], b"{\r\n}\n");
        assert_eq!(&body("--data-raw @a.json")[..], b"@a.json");
        assert_eq!(&body("--json '{}' --json=x")[..], b"{}x");
        let json = of("curl --json {} http://h.example/x -u me:you").unwrap();
        assert_eq!(
            (json.method.as_str(), json.headers.get("content-type").unwrap().as_bytes()),
            ("POST", &b"application/json"[..])
        );
        assert_eq!(json.headers.get("authorization").unwrap(), "Basic bWU6eW91");
        assert_eq!(of("curl h.example").unwrap().method, "GET");
    }

    #[test]
    fn what_would_be_guessed_is_refused() {
        for (text, words) in [
            ("wget x", "expected curl"),
            ("curl -d \"$BODY\" h", "$BODY"),
            ("curl -d `cat x` h", "only the shell"),
            ("curl -F a=b h", "-F"),
            ("curl -d 'a h", "without its end"),
            ("curl -d @b.json h", "no file"),
            ("curl -d @- h", "stdin"),
            ("curl -H nonsense h", "Name: value"),
            ("curl a b", "two addresses"),
            ("curl -s", "no address"),
            ("", "no command"),
        ] {
            let fault = of(text).map(drop).unwrap_err();
            assert!(fault.contains(words), "{text}: {fault}");
        }
    }
}
