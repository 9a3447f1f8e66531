//! The connections to the servers that hold claims, made when first needed: one to each for each runtime that asks, so that a
//! question and its answer stay on one core, and what is asked there at once travels in one piece. A question goes to the
//! server that has its slot and follows it when it has moved. A connection that has broken, as one does that a server closes
//! because it was idle, or that leads to a server which takes no writes any more, makes everything be found anew, and the
//! question is asked once more where it may be (`scripts.rs`).
//!
//! Waiting is bounded by the caller. Files are read on a thread of their own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use redis::{ErrorKind, RedisError, ServerErrorKind, Value};
use tokio::runtime::{Handle, Id};
use tokio::sync::OnceCell;

use super::connect::{Link, connect, fault};
use super::find::{Found, ask_watchers, find, slots};
use super::scripts::{Again, Counts, Declared, Question, Script};
use super::sending::{Asking, Copies, put};
use super::settings::{Greeting, Resolved, Settings, resolve};
use super::slots::{Address, SlotMap, slot_of};
use crate::claims::store::StoreFault;
use crate::domain::shared_store::Place;

/// Most servers that one question is sent on to.
const HOPS: usize = 8;
/// The wait before a question is repeated to a slot that is just moving.
const MOVING: Duration = Duration::from_millis(3);

/// All connections, and how they are made.
pub(super) struct Links {
    settings: ArcSwap<Settings>,
    /// Replaced as a whole; held for a clone.
    servers: ArcSwapOption<Servers>,
    /// Held while connecting, so that one connection is made and not many.
    connecting: tokio::sync::Mutex<()>,
    /// Servers of a cluster that were heard of, in case none of the given ones is left.
    known: Mutex<Vec<Address>>,
}

/// The servers as they were found, and the connections to them.
pub(super) struct Servers {
    settings: Arc<Settings>,
    resolved: Resolved,
    map: Mutex<SlotMap>,
    /// Per runtime that asks: threads that serve, and one.
    links: Mutex<Vec<(Id, Home)>>,
    /// A question was sent on: who has what is to be asked again.
    outdated: AtomicBool,
}

/// The connections of one runtime; empty ones are being made.
type Home = BTreeMap<Address, Arc<OnceCell<Link>>>;

impl Links {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings: ArcSwap::from_pointee(settings),
            servers: ArcSwapOption::empty(),
            connecting: tokio::sync::Mutex::new(()),
            known: Mutex::default(),
        }
    }

    pub(super) fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// Other settings from now on. Connections are made by them at the next probe; those there are serve until then.
    pub(super) fn configure(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
    }

    pub(super) fn are_there(&self) -> bool {
        self.servers.load().is_some()
    }

    pub(super) fn give_up(&self) {
        self.servers.store(None);
    }

    /// The servers, found now if they are not known.
    pub(super) async fn servers(&self) -> Result<Arc<Servers>, StoreFault> {
        if let Some(servers) = self.servers.load_full() {
            return Ok(servers);
        }
        let _alone = self.connecting.lock().await;
        if let Some(servers) = self.servers.load_full() {
            return Ok(servers);
        }
        // Rare, and large: it is not carried by every question.
        Box::pin(self.find_anew()).await
    }

    /// Whether the settings have changed since the servers were found.
    pub(super) fn are_of_old_settings(&self) -> bool {
        let settings = self.settings.load();
        self.servers.load().as_ref().is_some_and(|servers| !Arc::ptr_eq(&servers.settings, &settings))
    }

    /// Finds the servers by the settings as they are now; those found before stay if that fails.
    pub(super) async fn find_anew(&self) -> Result<Arc<Servers>, StoreFault> {
        let settings = self.settings();
        let link = settings.link.clone();
        let resolved = tokio::task::spawn_blocking(move || resolve(&link)).await;
        let resolved =
            resolved.map_err(|error| StoreFault::Failed(format!("cannot read what redis needs: {error}")))??;
        let known = lock(&self.known).clone();
        let Found { map, address, link } = find(&settings.link.place, &resolved, &known).await?;
        *lock(&self.known) = map.servers();
        let servers = Arc::new(Servers {
            settings,
            resolved,
            map: Mutex::new(map),
            links: Mutex::new(vec![(Handle::current().id(), Home::from([(address, Arc::new(link.into()))]))]),
            outdated: AtomicBool::new(false),
        });
        self.servers.store(Some(servers.clone()));
        Ok(servers)
    }

    /// Asks whoever has the slot, wherever it has moved.
    pub(super) async fn ask(&self, script: &Script, question: &Question) -> Result<Value, StoreFault> {
        let copies = self.copies(script);
        let mut servers = self.servers().await?;
        let slot = slot_of(question.key());
        let mut address = servers.owner(slot)?;
        let (mut asking, mut declared, mut again) = (Asking::No, Declared::Both, script.again);
        let mut reread = Again::May;
        for _ in 0..HOPS {
            let link = match servers.link(&address).await {
                Ok(link) => link,
                Err(fault) => {
                    // Perhaps the login or a certificate is another one by now. Nothing was asked yet.
                    servers = self.in_place_of(&servers, &mut reread, fault).await?;
                    (address, asking) = (servers.owner(slot)?, Asking::No);
                    continue;
                }
            };
            let error = match put(&link, |by| question.command(script, by, declared), asking, copies).await {
                Ok(answered) => return answered.copied(),
                Err(error) => error,
            };
            match turn(&error, &address) {
                Turn::Moved(to) => {
                    servers.learn(slot, to.clone());
                    (address, asking) = (to, Asking::No);
                }
                Turn::Ask(to) => (address, asking) = (to, Asking::Yes),
                Turn::Moving if declared == Declared::Both => {
                    (address, asking, declared) = (servers.owner(slot)?, Asking::No, Declared::First);
                }
                Turn::Moving => {
                    tokio::time::sleep(MOVING).await;
                    (address, asking) = (servers.owner(slot)?, Asking::No);
                }
                Turn::Broken => {
                    servers = self.in_place_of(&servers, &mut again, fault(&address, &error)).await?;
                    (address, asking) = (servers.owner(slot)?, Asking::No);
                }
                Turn::None => return Err(fault(&address, &error)),
            }
        }
        Err(StoreFault::Failed(format!("the slot {slot} of the redis cluster moved {HOPS} times within one question")))
    }

    /// Asks many questions as one where one server has all keys. `None`: each is to be asked by itself.
    pub(super) async fn ask_together<'q>(
        &self,
        script: &Script,
        questions: impl ExactSizeIterator<Item = &'q Question> + Clone,
    ) -> Result<Option<Value>, StoreFault> {
        let copies = self.copies(script);
        let mut servers = self.servers().await?;
        let (mut again, mut reread) = (script.again, Again::May);
        loop {
            let Some(address) = servers.only() else { return Ok(None) };
            let link = match servers.link(&address).await {
                Ok(link) => link,
                Err(fault) => {
                    servers = self.in_place_of(&servers, &mut reread, fault).await?;
                    continue;
                }
            };
            let command = |by| Question::together(questions.clone(), script, by);
            let error = match put(&link, command, Asking::No, copies).await {
                Ok(answered) => return answered.copied().map(Some),
                Err(error) => error,
            };
            match turn(&error, &address) {
                Turn::Broken => {
                    servers = self.in_place_of(&servers, &mut again, fault(&address, &error)).await?;
                }
                Turn::Moved(_) | Turn::Ask(_) | Turn::Moving | Turn::None => return Ok(None),
            }
        }
    }

    /// How many replicas must have what a script writes.
    fn copies(&self, script: &Script) -> Copies {
        match script.counts {
            Counts::Copied => Copies::of_claims(&self.settings.load()),
            Counts::AtOnce => Copies::NONE,
        }
    }

    /// The servers found anew for a question that was met by `fault`, once; then that is its answer. Those there were are given
    /// up, unless somebody has found them anew already.
    async fn in_place_of(
        &self,
        servers: &Arc<Servers>,
        again: &mut Again,
        fault: StoreFault,
    ) -> Result<Arc<Servers>, StoreFault> {
        drop(self.servers.compare_and_swap(servers, None));
        match std::mem::replace(again, Again::MayNot) {
            Again::May => self.servers().await,
            Again::MayNot => Err(fault),
        }
    }
}

impl Servers {
    fn owner(&self, slot: u16) -> Result<Address, StoreFault> {
        let owner = lock(&self.map).owner(slot).cloned();
        owner.ok_or_else(|| StoreFault::Failed(format!("no server of the redis cluster holds the slot {slot}")))
    }

    fn learn(&self, slot: u16, to: Address) {
        self.outdated.store(true, Ordering::Release);
        lock(&self.map).learn(slot, to);
    }

    /// The one server that has all keys; none in a cluster, whose servers are asked about one slot at a time.
    fn only(&self) -> Option<Address> {
        match &self.settings.link.place {
            Place::One(_) | Place::Watched { .. } => self.owner(0).ok(),
            Place::Cluster(_) => None,
        }
    }

    /// Every server that holds claims.
    pub(super) fn all(&self) -> Vec<Address> {
        lock(&self.map).servers()
    }

    /// A key that begins with `prefix` at each server.
    pub(super) fn keys_everywhere(&self, prefix: &str) -> Vec<String> {
        // Searched outside the lock, which every question takes.
        let map = lock(&self.map).clone();
        map.servers().iter().filter_map(|server| map.key_at(server, prefix)).collect()
    }

    /// This runtime's connection to a server. Whoever else wants it while it is being made waits for it.
    pub(super) async fn link(&self, address: &Address) -> Result<Link, StoreFault> {
        let place = self.place(address);
        match place.get() {
            Some(link) => Ok(link.clone()),
            None => Box::pin(place.get_or_try_init(|| connect(address, self.greeting()))).await.cloned(),
        }
    }

    /// Where this runtime's connection to a server is, once there is one.
    fn place(&self, address: &Address) -> Arc<OnceCell<Link>> {
        let here = Handle::current().id();
        let mut homes = lock(&self.links);
        let known = homes.iter().position(|(runtime, _)| *runtime == here);
        if let Some(place) = known.and_then(|at| homes.get(at)).and_then(|(_, home)| home.get(address)) {
            return place.clone();
        }
        let place = Arc::new(OnceCell::new());
        let made = (address.clone(), place.clone());
        match known.and_then(|at| homes.get_mut(at)) {
            Some((_, home)) => home.extend([made]),
            None => homes.push((here, Home::from([made]))),
        }
        place
    }

    const fn greeting(&self) -> &Greeting {
        &self.resolved.greeting
    }

    /// Whether the servers are still the ones to be asked: Sentinel may name another, a cluster may have changed.
    /// Nobody who could tell is no reason to doubt.
    pub(super) async fn still_hold(&self) -> bool {
        match &self.settings.link.place {
            Place::One(_) => true,
            Place::Watched { .. } => match ask_watchers(&self.resolved).await {
                Ok(named) => self.all() == [named],
                Err(fault) => {
                    tracing::debug!(%fault, "no sentinel says who the master is");
                    true
                }
            },
            Place::Cluster(_) => {
                if self.outdated.swap(false, Ordering::AcqRel) {
                    self.ask_for_slots().await;
                }
                true
            }
        }
    }

    /// A connection of this runtime, to whichever server.
    fn some_link(&self) -> Option<(Address, Link)> {
        let here = Handle::current().id();
        let homes = lock(&self.links);
        let (_, home) = homes.iter().find(|(runtime, _)| *runtime == here)?;
        home.iter().find_map(|(address, place)| Some((address.clone(), place.get()?.clone())))
    }

    async fn ask_for_slots(&self) {
        let Some((address, link)) = self.some_link() else { return };
        match slots(&address, &link).await {
            Ok(map) => *lock(&self.map) = map,
            Err(fault) => tracing::debug!(%fault, "the cluster does not say who has which slots"),
        }
    }
}

/// What an error means for where to ask.
enum Turn {
    Moved(Address),
    Ask(Address),
    /// The slot is on its way.
    Moving,
    /// The connection, or its server, is of no use any more.
    Broken,
    None,
}

fn turn(error: &RedisError, asked: &Address) -> Turn {
    let to = || error.redirect_node().and_then(|(to, _)| Address::redirected(to, asked));
    // Redis 6 wraps what goes wrong inside a script.
    let says = |word: &str| error.detail().is_some_and(|detail| detail.contains(word));
    let is = |kind| error.kind() == ErrorKind::Server(kind);
    if is(ServerErrorKind::Moved) {
        to().map_or(Turn::None, Turn::Moved)
    } else if is(ServerErrorKind::Ask) {
        to().map_or(Turn::None, Turn::Ask)
    } else if is(ServerErrorKind::TryAgain) {
        Turn::Moving
    } else if is(ServerErrorKind::ReadOnly)
        || is(ServerErrorKind::MasterDown)
        // A master that becomes a replica lets go of who waits for copies.
        || matches!(error.code(), Some("NOAUTH" | "UNBLOCKED"))
        || says("READONLY")
        || error.kind() == ErrorKind::Io
        || error.is_unrecoverable_error()
    {
        Turn::Broken
    } else {
        Turn::None
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
