//! Finding the servers that hold claims: the one that was named, the one that Sentinel names, those of a cluster. How
//! a failover is followed: whoever sees a connection break has everything found anew.

use redis::{FromRedisValue, Value};
use tokio::task::JoinSet;

use super::connect::{Link, connect, fault};
use super::settings::{Greeting, Resolved};
use super::slots::{Address, SlotMap};
use crate::claims::store::StoreFault;
use crate::domain::shared_store::Place;

/// Who has what, and the connection over which it was heard.
pub(super) struct Found {
    pub(super) map: SlotMap,
    pub(super) address: Address,
    pub(super) link: Link,
}

/// Finds the servers. `known`: servers of the same cluster that were heard of before.
pub(super) async fn find(place: &Place, resolved: &Resolved, known: &[Address]) -> Result<Found, StoreFault> {
    let nobody = || StoreFault::Failed("no address of redis is known".to_owned());
    match place {
        Place::One(_) => {
            let address = resolved.addresses.first().ok_or_else(nobody)?.clone();
            let link = connect(&address, &resolved.greeting).await?;
            Ok(Found { map: SlotMap::whole(address.clone()), address, link })
        }
        Place::Watched { .. } => {
            let address = ask_watchers(resolved).await?;
            let link = connect(&address, &resolved.greeting).await?;
            is_master(&address, &link).await?;
            // One that hung while it was replaced answers as what it was. Nobody who could tell is no reason to doubt.
            if let Ok(named) = ask_watchers(resolved).await
                && named != address
            {
                let replaced = format!("redis at {address} has been replaced by {named}, the sentinels say");
                return Err(StoreFault::Failed(replaced));
            }
            Ok(Found { map: SlotMap::whole(address.clone()), address, link })
        }
        Place::Cluster(_) => {
            let mut seeds = resolved.addresses.clone();
            seeds.extend(known.iter().filter(|address| !resolved.addresses.contains(address)).cloned());
            first_answer(seeds, |seed| ask_member(seed, resolved.greeting.clone())).await
        }
    }
}

async fn ask_member(address: Address, greeting: Greeting) -> Result<Found, StoreFault> {
    let link = connect(&address, &greeting).await?;
    let map = slots(&address, &link).await?;
    Ok(Found { map, address, link })
}

/// The server that Sentinel names: all sentinels are asked at once, the first that knows it is believed.
pub(super) async fn ask_watchers(resolved: &Resolved) -> Result<Address, StoreFault> {
    let Some((greeting, master)) = &resolved.watchers else {
        return Err(StoreFault::Failed("no sentinel is known".to_owned()));
    };
    first_answer(resolved.addresses.clone(), |sentinel| ask_watcher(sentinel, greeting.clone(), master.clone())).await
}

async fn ask_watcher(sentinel: Address, greeting: Greeting, master: String) -> Result<Address, StoreFault> {
    let mut link = connect(&sentinel, &greeting).await?;
    let mut question = redis::cmd("SENTINEL");
    question.arg("get-master-addr-by-name").arg(&master);
    let answer = question.query_async(&mut link.connection).await;
    let answer: Option<(String, u16)> = answer.map_err(|error| fault(&sentinel, &error))?;
    let unknown = || StoreFault::Failed(format!("the sentinel at {sentinel} knows no master called {master}"));
    let (host, port) = answer.ok_or_else(unknown)?;
    Ok(Address { host, port })
}

/// Whether it takes writes. A user who may not ask learns it from the first write.
async fn is_master(address: &Address, link: &Link) -> Result<(), StoreFault> {
    let role = redis::cmd("ROLE").query_async(&mut link.connection.clone()).await;
    let role: Vec<Value> = match role {
        Ok(role) => role,
        Err(error) if error.code() == Some("NOPERM") => return Ok(()),
        Err(error) => return Err(fault(address, &error)),
    };
    match role.first().cloned().map(String::from_redis_value) {
        Some(Ok(role)) if role == "master" => Ok(()),
        _ => Err(StoreFault::Failed(format!("redis at {address} is named by the sentinels and is no master yet"))),
    }
}

/// What a server of a cluster says about all slots.
pub(super) async fn slots(asked: &Address, link: &Link) -> Result<SlotMap, StoreFault> {
    let mut question = redis::cmd("CLUSTER");
    question.arg("SLOTS");
    let answer: Vec<Vec<Value>> =
        question.query_async(&mut link.connection.clone()).await.map_err(|error| fault(asked, &error))?;
    let mut map = SlotMap::default();
    for range in &answer {
        let (first, last, server) = read_range(range, asked).ok_or_else(|| {
            StoreFault::Failed(format!("redis at {asked} describes its cluster in a form that is not understood"))
        })?;
        map.put(first, last, server);
    }
    if map.is_complete() {
        return Ok(map);
    }
    Err(StoreFault::Failed(format!("the redis cluster at {asked} has slots that no server holds")))
}

/// `[first, last, [host, port, …], …]`; a host that is not said is the one that was asked.
fn read_range(range: &[Value], asked: &Address) -> Option<(u16, u16, Address)> {
    let [first, last, Value::Array(master), ..] = range else { return None };
    let number = |value: &Value| u16::from_redis_value(value.clone()).ok();
    let [host, port, ..] = master.as_slice() else { return None };
    let host: Option<String> = FromRedisValue::from_redis_value(host.clone()).ok()?;
    let host = host.filter(|host| !host.is_empty() && host != "?").unwrap_or_else(|| asked.host.clone());
    Some((number(first)?, number(last)?, Address { host, port: number(port)? }))
}

/// Asks all at once; the first good answer counts. Without one, all their faults.
async fn first_answer<T, A>(addresses: Vec<Address>, ask: impl Fn(Address) -> A) -> Result<T, StoreFault>
where
    T: Send + 'static,
    A: Future<Output = Result<T, StoreFault>> + Send + 'static,
{
    let mut asked = JoinSet::new();
    for address in addresses {
        asked.spawn(ask(address));
    }
    let mut faults = Vec::new();
    while let Some(answer) = asked.join_next().await {
        match answer {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(fault)) => faults.push(fault.to_string()),
            Err(error) => faults.push(error.to_string()),
        }
    }
    Err(StoreFault::Failed(faults.join("; ")))
}
