//! Hypotheses about the address that was signed: scheme, host, port, path, slash and query, alone and together.
//!
//! All of them are found in one search, nearest addresses first. An address with several differences is told by the
//! first of host, path, scheme, port, slash, query.

use super::bench::Bench;
use super::hypothesis::Found;
use crate::domain::inbound::Inbound;
use crate::domain::scheme::Coverage;

/// Most hosts and most paths that are tried.
const MOST_PLACES: usize = 6;
/// Longest value of a header that is taken for a host or a path.
const LONGEST_PLACE: usize = 512;

/// What may differ, the most telling first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Host,
    Path,
    Scheme,
    Port,
    Slash,
    Query,
}

/// The address that fits, and in what it differs.
#[derive(Clone, Debug)]
pub(super) struct UrlFit {
    parts: Vec<Part>,
    url: String,
}

/// What the search has found.
#[derive(Clone, Debug)]
pub(super) enum Search {
    NotYet,
    Nothing,
    Found(UrlFit),
}

/// An address in its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Address {
    scheme: String,
    host: String,
    port: Option<String>,
    path: String,
}

impl Address {
    fn parse(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let rest = rest.split('?').next()?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = host_and_port(authority);
        Some(Self { scheme: scheme.to_owned(), host, port, path: path.to_owned() })
    }

    fn text(&self) -> String {
        let port = self.port.as_ref().map_or_else(String::new, |port| format!(":{port}"));
        format!("{}://{}{port}{}", self.scheme, self.host, self.path)
    }

    /// In what `other` differs.
    fn differences(&self, other: &Self) -> Vec<Part> {
        let slash = self.path.trim_end_matches('/') == other.path.trim_end_matches('/');
        let parts = [
            (Part::Host, self.host != other.host),
            (Part::Path, self.path != other.path && !slash),
            (Part::Scheme, self.scheme != other.scheme),
            (Part::Port, self.port != other.port),
            (Part::Slash, self.path != other.path && slash),
        ];
        parts.into_iter().filter_map(|(part, differs)| differs.then_some(part)).collect()
    }
}

fn host_and_port(authority: &str) -> (String, Option<String>) {
    let end = authority.rfind(']').map_or(0, |at| at + 1);
    let colon = authority.get(end..).and_then(|tail| tail.rfind(':')).map(|at| end + at);
    match colon.and_then(|at| Some((authority.get(..at)?, authority.get(at + 1..)?))) {
        Some((host, port)) => (host.to_owned(), Some(port.to_owned())),
        None => (authority.to_owned(), None),
    }
}

/// The first line of a header, if it could be a host or a path.
fn header<'i>(inbound: &'i Inbound, name: &str) -> Option<&'i str> {
    let value = inbound.headers.get(name)?.to_str().ok()?.split(',').next()?.trim();
    (!value.is_empty() && value.len() <= LONGEST_PLACE).then_some(value)
}

/// All addresses that could have been signed, the configured or received one first.
fn addresses(inbound: &Inbound, own: &Address) -> Vec<Address> {
    let named = ["host", "x-forwarded-host", "x-original-host"].map(|name| header(inbound, name));
    let authorities = named.into_iter().flatten().chain([inbound.authority.as_str()]);
    let mut hosts = vec![own.host.clone()];
    let mut ports = vec![own.port.clone(), None, Some("443".to_owned()), Some("80".to_owned())];
    for (host, port) in authorities.map(host_and_port) {
        add(&mut hosts, host);
        add(&mut ports, port);
    }
    let named = ["x-original-uri", "x-forwarded-uri", "x-original-url", "x-forwarded-path"];
    let mut paths = vec![own.path.clone()];
    add(&mut paths, inbound.path.clone());
    for path in named.into_iter().filter_map(|name| header(inbound, name)) {
        let path = path
            .split_once("://")
            .map_or(path, |(_, rest)| rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("/"));
        add(&mut paths, path.split('?').next().unwrap_or_default().to_owned());
    }
    if let Some(prefix) = header(inbound, "x-forwarded-prefix") {
        add(&mut paths, format!("{}{}", prefix.trim_end_matches('/'), inbound.path));
    }
    let slashed = |path: &String| path.strip_suffix('/').map_or_else(|| format!("{path}/"), str::to_owned);
    let other: Vec<String> = paths.iter().map(slashed).collect();
    paths.extend(other);
    let mut all = Vec::new();
    for scheme in ["https", "http"] {
        for host in &hosts {
            for port in &ports {
                for path in &paths {
                    let (host, port, path) = (host.clone(), port.clone(), path.clone());
                    all.push(Address { scheme: scheme.to_owned(), host, port, path });
                }
            }
        }
    }
    all
}

fn add<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if list.len() < MOST_PLACES && !list.contains(&item) {
        list.push(item);
    }
}

/// Searches the address that was signed.
fn search(bench: &mut Bench<'_>) -> Option<UrlFit> {
    if bench.route().scheme.traits().url != Coverage::Covered {
        return None;
    }
    let inbound = bench.inbound();
    let own = Address::parse(&inbound.url(bench.route().public_url.as_deref()))?;
    let mut tries: Vec<(Vec<Part>, Address)> = Vec::new();
    for address in addresses(inbound, &own) {
        let parts = own.differences(&address);
        if inbound.query.is_some() {
            tries.push((parts.iter().copied().chain([Part::Query]).collect(), address.clone()));
        }
        tries.push((parts, address));
    }
    tries.sort_by(|(one, _), (other, _)| one.len().cmp(&other.len()).then_with(|| one.cmp(other)));
    tries.dedup();
    for (parts, address) in tries.into_iter().filter(|(parts, _)| !parts.is_empty()) {
        let query = if parts.contains(&Part::Query) { None } else { inbound.query.clone() };
        let url = address.text();
        if bench.fits_at(Inbound { query, ..inbound.clone() }, &url).is_some() {
            return Some(UrlFit { parts, url });
        }
        if bench.is_spent() {
            return None;
        }
    }
    None
}

/// What the search found, if `part` is the most telling difference.
fn told_by(bench: &mut Bench<'_>, part: Part) -> Option<Found> {
    if matches!(bench.address, Search::NotYet) {
        bench.address = search(bench).map_or(Search::Nothing, Search::Found);
    }
    let fit = match &bench.address {
        Search::Found(fit) if fit.parts.first() == Some(&part) => fit,
        Search::Found(_) | Search::Nothing | Search::NotYet => return None,
    };
    let checked = bench.inbound().url(bench.route().public_url.as_deref());
    let checked = checked.split('?').next().unwrap_or_default();
    let query = if fit.parts.contains(&Part::Query) { ", without its query," } else { "" };
    let found = Found::new(format!("{}{query} was signed, and {checked} was checked", fit.url));
    Some(if part == Part::Query { found } else { found.fix(format!("set the route's `public_url = {:?}`", fit.url)) })
}

pub(super) fn host(bench: &mut Bench<'_>) -> Option<Found> {
    told_by(bench, Part::Host)
}

pub(super) fn path(bench: &mut Bench<'_>) -> Option<Found> {
    told_by(bench, Part::Path)
}

pub(super) fn scheme(bench: &mut Bench<'_>) -> Option<Found> {
    told_by(bench, Part::Scheme)
}

pub(super) fn port(bench: &mut Bench<'_>) -> Option<Found> {
    told_by(bench, Part::Port)
}

pub(super) fn slash(bench: &mut Bench<'_>) -> Option<Found> {
    told_by(bench, Part::Slash)
}

pub(super) fn query(bench: &mut Bench<'_>) -> Option<Found> {
    told_by(bench, Part::Query)
}
