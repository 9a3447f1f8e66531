//! The states of the world and the steps between them. A step is one indivisible thing: a call to the store, a write
//! to the disk, a byte to the application, a crash between any two of them.

use super::local::{Claimed, Mark, Memory, Policy};
use super::script::{Ask, Call, Mutant, Rules, Said, Slot};

/// `ack.mode`, as far as it matters here: what becomes of an event that the application did not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// Its sender is told, and the claim released.
    Pass,
    /// It goes to disk and is acknowledged.
    Absorb,
}

/// How many of each incident one history may have, and how many in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Incidents {
    /// A gateway dies and starts again.
    pub crashes: u8,
    /// A call that is not executed, or executed and not heard, or executed later.
    pub store_faults: u8,
    /// A lease ends, in the store or in a local table: somebody paused for that long.
    pub lapses: u8,
    /// The store loses everything.
    pub emptied: u8,
    /// The application takes the request and says nothing.
    pub silent: u8,
    /// A commit of an event fails.
    pub commits: u8,
    pub all: u8,
}

impl Incidents {
    pub const fn none() -> Self {
        Self { crashes: 0, store_faults: 0, lapses: 0, emptied: 0, silent: 0, commits: 0, all: 0 }
    }
}

/// What is walked through.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub replicas: u8,
    /// How often the sender sends, all at once or one after another.
    pub copies: u8,
    /// Where a history ends: so many sendings to the application.
    pub sendings: u8,
    pub ack: Ack,
    pub policy: Policy,
    pub incidents: Incidents,
    pub rules: Rules,
}

/// Which of the documented second sendings were met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Windows {
    /// A flagged one: W1, W2, W3.
    pub flagged: bool,
    /// An unflagged one by the other gateway, because the store forgot or was not reached: W4.
    pub store: bool,
}

/// What the application does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum App {
    Accepts,
    Refuses,
    /// It may have processed the request, and does not say.
    Silent,
}

/// What becomes of a call to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Net {
    Answered,
    Lost,
    Unheard,
    Late,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Idle,
    Asking,
    Ours { flagged: bool },
    Sent { flagged: bool, app: App },
    Accepted,
    MarkedHere,
    GivenUp { perhaps: bool },
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Copy {
    at: u8,
    phase: Phase,
    /// By its own clock its lease has passed.
    late: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum OnDisk {
    Pending {
        flagged: bool,
    },
    /// The store has said whether another has had it.
    Vouched {
        flagged: bool,
    },
    InFlight {
        flagged: bool,
        app: App,
    },
    Marked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Kept {
    owner: u8,
    on_disk: OnDisk,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Replica {
    memory: Memory,
    spool: Vec<Kept>,
    /// After an unclean stop: what may be older than it is flagged.
    in_doubt: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Send { copy: u8, to: u8 },
    Ask { copy: u8, net: Net },
    TellInFlightElsewhere { copy: u8 },
    Deliver { copy: u8, app: App },
    Learn { copy: u8, commits: bool },
    MarkHere { copy: u8 },
    TellStore { copy: u8, net: Net },
    Vouch { at: u8, entry: u8, net: Net },
    DeliverFromDisk { at: u8, entry: u8, app: App },
    LearnFromDisk { at: u8, entry: u8, net: Net },
    Remove { at: u8, entry: u8 },
    Crash { at: u8, written: bool },
    StoreIsBack { at: u8 },
    LateCall { call: Call },
    LapseInStore,
    LapseAt { replica: u8 },
    Empty,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact about the history, and any of them may hold")]
pub struct State {
    store: Slot,
    late: Vec<Call>,
    replicas: Vec<Replica>,
    copies: Vec<Copy>,
    left: Incidents,
    begun: u8,
    /// Sendings that were taken or may have been: how many, and by whom.
    taken: u8,
    taken_by: [bool; 2],
    again: u8,
    /// Somebody took the event without the store: it may know nothing of that.
    blind: bool,
    /// A claim was executed when nobody was left who would give it up: it stays for its lease.
    stray: bool,
    accepted: bool,
    acked: bool,
}

impl State {
    pub fn new(plan: &Plan) -> Self {
        let replica = Replica { memory: Memory::default(), spool: Vec::new(), in_doubt: false };
        Self {
            store: Slot::default(),
            late: Vec::new(),
            replicas: vec![replica; plan.replicas.into()],
            copies: vec![Copy { at: 0, phase: Phase::Idle, late: false }; plan.copies.into()],
            left: plan.incidents,
            begun: 0,
            taken: 0,
            taken_by: [false; 2],
            again: 0,
            blind: false,
            stray: false,
            accepted: false,
            acked: false,
        }
    }

    pub fn actions(&self, plan: &Plan) -> Vec<Action> {
        let mut actions = Vec::new();
        for (number, copy) in (0..).zip(&self.copies) {
            self.of_copy(number, *copy, plan, &mut actions);
        }
        // Copies are alike: the next one to be sent is the first that was not.
        if let Some(copy) = (0..).zip(&self.copies).find(|(_, copy)| copy.phase == Phase::Idle).map(|(n, _)| n) {
            // So are the replicas: the first copy goes to the first.
            let replicas = if copy == 0 { 1 } else { plan.replicas };
            actions.extend((0..replicas).filter(|to| !self.leads(*to)).map(|to| Action::Send { copy, to }));
        }
        for (at, replica) in (0..).zip(&self.replicas) {
            self.of_replica(at, replica, plan, &mut actions);
        }
        actions.extend(self.late.iter().map(|call| Action::LateCall { call: *call }));
        if self.left.all > 0 && self.left.lapses > 0 {
            actions.push(Action::LapseInStore);
        }
        if self.left.all > 0 && self.left.emptied > 0 {
            actions.push(Action::Empty);
        }
        actions
    }

    fn of_copy(&self, copy: u8, it: Copy, plan: &Plan, actions: &mut Vec<Action>) {
        match it.phase {
            Phase::Idle | Phase::Done => {}
            Phase::Asking => {
                actions.extend(self.nets(it.at).map(|net| Action::Ask { copy, net }));
                actions.push(Action::TellInFlightElsewhere { copy });
            }
            Phase::Ours { .. } => {
                if self.begun < plan.sendings {
                    actions.extend(self.apps().map(|app| Action::Deliver { copy, app }));
                }
            }
            Phase::Sent { .. } => {
                actions.push(Action::Learn { copy, commits: true });
                if plan.ack == Ack::Absorb && self.left.all > 0 && self.left.commits > 0 {
                    actions.push(Action::Learn { copy, commits: false });
                }
            }
            Phase::Accepted => actions.push(Action::MarkHere { copy }),
            Phase::MarkedHere | Phase::GivenUp { .. } => {
                actions.extend(self.nets(it.at).map(|net| Action::TellStore { copy, net }));
            }
        }
    }

    fn of_replica(&self, at: u8, replica: &Replica, plan: &Plan, actions: &mut Vec<Action>) {
        let unseen = plan.rules.are(Mutant::SentFromDiskUnseen);
        for (entry, kept) in (0..).zip(&replica.spool) {
            match kept.on_disk {
                OnDisk::Pending { .. } | OnDisk::Vouched { .. } if self.begun >= plan.sendings => {}
                OnDisk::Pending { flagged: false } if !unseen => {
                    actions.extend(self.nets(at).map(|net| Action::Vouch { at, entry, net }));
                }
                OnDisk::Pending { .. } | OnDisk::Vouched { .. } => {
                    actions.extend(self.apps().map(|app| Action::DeliverFromDisk { at, entry, app }));
                }
                OnDisk::InFlight { .. } => {
                    actions.extend(self.nets(at).map(|net| Action::LearnFromDisk { at, entry, net }));
                }
                OnDisk::Marked => actions.push(Action::Remove { at, entry }),
            }
        }
        if !replica.memory.up {
            actions.push(Action::StoreIsBack { at });
        }
        if self.left.all > 0 && self.left.crashes > 0 {
            actions.extend([true, false].map(|written| Action::Crash { at, written }));
        }
        if self.left.all > 0 && self.left.lapses > 0 && replica.memory.lease.is_some_and(|lease| !lease.lapsed) {
            actions.push(Action::LapseAt { replica: at });
        }
    }

    /// Whether a request leads the event's flight there: copies join it and ask nobody.
    fn leads(&self, replica: u8) -> bool {
        self.copies.iter().any(|copy| copy.at == replica && !matches!(copy.phase, Phase::Idle | Phase::Done))
    }

    fn nets(&self, at: u8) -> impl Iterator<Item = Net> + use<> {
        let faults = self.left.all > 0 && self.left.store_faults > 0 && self.memory(at).up;
        let nets = [Net::Answered, Net::Lost, Net::Unheard, Net::Late];
        nets.into_iter().filter(move |net| faults || *net == Net::Answered)
    }

    fn apps(&self) -> impl Iterator<Item = App> + use<> {
        let silent = self.left.all > 0 && self.left.silent > 0;
        [App::Accepts, App::Refuses, App::Silent].into_iter().filter(move |app| silent || *app != App::Silent)
    }

    fn memory(&self, at: u8) -> &Memory {
        &self.replicas[usize::from(at)].memory
    }

    /// Takes a step. An error is a broken promise.
    pub fn step(&mut self, action: Action, plan: &Plan, windows: &mut Windows) -> Result<(), String> {
        match action {
            Action::Send { copy, to } => {
                self.copies[usize::from(copy)] = Copy { at: to, phase: Phase::Asking, late: false };
            }
            Action::Ask { copy, net } => self.ask(copy, net, plan)?,
            Action::TellInFlightElsewhere { copy } => self.copies[usize::from(copy)].phase = Phase::Done,
            Action::Deliver { copy, app } => self.deliver(copy, app, plan, windows)?,
            Action::Learn { copy, commits } => self.learn(copy, commits, plan)?,
            Action::MarkHere { copy } => {
                let at = self.copies[usize::from(copy)].at;
                self.replicas[usize::from(at)].memory.remember(owner(copy), plan.rules);
                self.copies[usize::from(copy)].phase = Phase::MarkedHere;
            }
            Action::TellStore { copy, net } => self.tell_store(copy, net, plan.rules),
            Action::Vouch { at, entry, net } => self.vouch(at, entry, net, plan.rules),
            Action::DeliverFromDisk { at, entry, app } => {
                let on_disk = &mut self.replicas[usize::from(at)].spool[usize::from(entry)].on_disk;
                let (OnDisk::Pending { flagged } | OnDisk::Vouched { flagged }) = *on_disk else {
                    unreachable!("only what is pending is due")
                };
                *on_disk = OnDisk::InFlight { flagged, app };
                self.sending(at, flagged, app, plan, windows)?;
            }
            Action::LearnFromDisk { at, entry, net } => self.learn_from_disk(at, entry, net, plan.rules),
            Action::Remove { at, entry } => {
                let replica = &mut self.replicas[usize::from(at)];
                replica.spool.remove(entry.into());
                replica.memory.mark = Mark::Processed;
                replica.memory.written = Mark::Processed;
            }
            Action::Crash { at, written } => self.crash(at, written, plan.rules),
            Action::StoreIsBack { at } => self.store_is_back(at, plan.rules),
            Action::LateCall { call } => self.late_call(call, plan.rules),
            Action::LapseInStore => {
                let owners = self.store.lapse();
                if !owners.is_empty() {
                    self.are_late(&owners);
                    self.spend(|left| &mut left.lapses);
                }
            }
            Action::LapseAt { replica } => {
                let lease = self.replicas[usize::from(replica)].memory.lease.as_mut();
                let lease = lease.expect("a lease to lapse");
                lease.lapsed = true;
                let owner = lease.owner;
                self.are_late(&[owner]);
                self.spend(|left| &mut left.lapses);
            }
            Action::Empty => {
                self.store = Slot::default();
                self.spend(|left| &mut left.emptied);
            }
        }
        Ok(())
    }

    /// Owners began to count before the store did: when the store's lease has passed, their own has.
    fn are_late(&mut self, owners: &[u8]) {
        for owner in owners {
            let copy = &mut self.copies[usize::from(*owner) - 1];
            copy.late = matches!(copy.phase, Phase::Ours { .. });
        }
    }

    fn late_call(&mut self, call: Call, rules: Rules) {
        let place = self.late.iter().position(|late| *late == call).expect("it is there");
        let call = self.late.remove(place);
        let at = self.copies[usize::from(call.owner) - 1].at;
        let release = |owed: &Call| matches!(owed.ask, Ask::Release { .. }) && owed.owner == call.owner;
        self.stray |= call.ask == Ask::Claim && !self.memory(at).repairs.iter().any(release);
        self.store.run(call, rules);
    }

    fn vouch(&mut self, at: u8, entry: u8, net: Net, rules: Rules) {
        self.pay_for(net, at);
        let Self { store, late, replicas, .. } = self;
        let Replica { memory, spool, .. } = &mut replicas[usize::from(at)];
        let kept = &mut spool[usize::from(entry)];
        let call = Call { ask: Ask::Mark, owner: kept.owner, body: 0 };
        let said = if memory.up {
            over(net, store, late, call, rules).map(|said| said == Some(Said::Elsewhere))
        } else {
            None
        };
        kept.on_disk = OnDisk::Vouched { flagged: said == Some(true) };
        if memory.up && said.is_none() {
            memory.up = false;
            memory.repairs.push(call);
        }
        self.blind |= said.is_none();
    }

    fn ask(&mut self, copy: u8, net: Net, plan: &Plan) -> Result<(), String> {
        let at = self.copies[usize::from(copy)].at;
        self.pay_for(net, at);
        let Self { store, late, replicas, .. } = self;
        let memory = &mut replicas[usize::from(at)].memory;
        let claimed = memory.claim(owner(copy), plan.policy, plan.rules, |call| {
            over(net, store, late, call, plan.rules).map(|said| said.expect("a claim is answered"))
        });
        self.blind |= matches!(claimed, Claimed::Ours { .. }) && !self.memory(at).up;
        let phase = match claimed {
            Claimed::Ours { flagged } => Phase::Ours { flagged },
            Claimed::InFlight => Phase::Asking,
            Claimed::Refused => Phase::Done,
            Claimed::Duplicate => {
                self.acked = true;
                Phase::Done
            }
        };
        self.copies[usize::from(copy)].phase = phase;
        if self.acked { self.is_safe("a copy was acknowledged as a duplicate") } else { Ok(()) }
    }

    fn deliver(&mut self, copy: u8, app: App, plan: &Plan, windows: &mut Windows) -> Result<(), String> {
        let Copy { at, phase, late } = self.copies[usize::from(copy)];
        let Phase::Ours { flagged } = phase else { unreachable!("only what is ours is sent") };
        let late = late && !plan.rules.are(Mutant::SentAsIfNoTimeHadPassed);
        let flagged = flagged || late || self.replicas[usize::from(at)].in_doubt;
        if plan.rules.are(Mutant::MarkBeforeTheAnswer) {
            self.replicas[usize::from(at)].memory.remember(owner(copy), plan.rules);
        }
        self.copies[usize::from(copy)] = Copy { at, phase: Phase::Sent { flagged, app }, late: false };
        self.sending(at, flagged, app, plan, windows)
    }

    /// The application gets the event: the one moment at which a second sending is seen.
    fn sending(&mut self, at: u8, flagged: bool, app: App, plan: &Plan, windows: &mut Windows) -> Result<(), String> {
        self.begun += 1;
        let incidents = plan.incidents.all - self.left.all;
        if self.taken > 0 {
            // What the application refuses it may be given again: only what it takes counts.
            self.again += u8::from(app != App::Refuses);
            let forgot = self.blind || self.left.emptied < plan.incidents.emptied;
            let elsewhere = !self.taken_by[usize::from(at)];
            if self.again > incidents || incidents == 0 {
                return Err(format!("sent again {} times after {incidents} incidents", self.again));
            }
            match flagged {
                true => windows.flagged = true,
                false if forgot && elsewhere => windows.store = true,
                false => return Err("a second sending that is not flagged".to_owned()),
            }
        }
        if app == App::Silent {
            self.spend(|left| &mut left.silent);
        }
        self.accepted |= app == App::Accepts;
        if app != App::Refuses {
            self.taken += 1;
            self.taken_by[usize::from(at)] = true;
        }
        Ok(())
    }

    fn learn(&mut self, copy: u8, commits: bool, plan: &Plan) -> Result<(), String> {
        let Copy { at, phase, .. } = self.copies[usize::from(copy)];
        let Phase::Sent { flagged, app } = phase else { unreachable!("only what was sent has an outcome") };
        let next = match (app, plan.ack) {
            (App::Accepts, _) => Phase::Accepted,
            (App::Refuses | App::Silent, Ack::Pass) => Phase::GivenUp { perhaps: app == App::Silent },
            (App::Refuses | App::Silent, Ack::Absorb) => {
                let flagged = flagged || app == App::Silent;
                if commits {
                    let replica = &mut self.replicas[usize::from(at)];
                    replica.spool.push(Kept { owner: owner(copy), on_disk: OnDisk::Pending { flagged } });
                    replica.memory.mark = Mark::Processed;
                    replica.memory.written = Mark::Processed;
                    Phase::Accepted
                } else {
                    self.spend(|left| &mut left.commits);
                    Phase::GivenUp { perhaps: flagged }
                }
            }
        };
        self.copies[usize::from(copy)].phase = next;
        self.acked |= next == Phase::Accepted;
        if self.acked { self.is_safe("its sender was told 2xx") } else { Ok(()) }
    }

    fn tell_store(&mut self, copy: u8, net: Net, rules: Rules) {
        let Copy { at, phase, .. } = self.copies[usize::from(copy)];
        self.pay_for(net, at);
        let Self { store, late, replicas, copies, .. } = self;
        let memory = &mut replicas[usize::from(at)].memory;
        let ask = match phase {
            Phase::GivenUp { perhaps } => {
                memory.give_up(owner(copy), perhaps);
                Ask::Release { perhaps }
            }
            Phase::Idle | Phase::Asking | Phase::Ours { .. } | Phase::Sent { .. } => unreachable!("nothing to tell"),
            Phase::Accepted | Phase::MarkedHere | Phase::Done => Ask::Mark,
        };
        let call = Call { ask, owner: owner(copy), body: 0 };
        memory.tell(call, |call| over(net, store, late, call, rules).map(|_| ()));
        copies[usize::from(copy)].phase = Phase::Done;
    }

    fn learn_from_disk(&mut self, at: u8, entry: u8, net: Net, rules: Rules) {
        let Kept { owner, on_disk } = self.replicas[usize::from(at)].spool[usize::from(entry)];
        let OnDisk::InFlight { flagged, app } = on_disk else { unreachable!("only what was sent has an outcome") };
        let outcome = match app {
            App::Accepts => {
                self.pay_for(net, at);
                let Self { store, late, replicas, .. } = self;
                let memory = &mut replicas[usize::from(at)].memory;
                memory.remember(owner, rules);
                let call = Call { ask: Ask::Mark, owner, body: 0 };
                memory.tell(call, |call| over(net, store, late, call, rules).map(|_| ()));
                OnDisk::Marked
            }
            App::Refuses => OnDisk::Pending { flagged },
            App::Silent => OnDisk::Pending { flagged: true },
        };
        self.replicas[usize::from(at)].spool[usize::from(entry)].on_disk = outcome;
    }

    fn crash(&mut self, at: u8, written: bool, rules: Rules) {
        self.spend(|left| &mut left.crashes);
        let replica = &mut self.replicas[usize::from(at)];
        replica.memory.crash(written);
        replica.in_doubt = !rules.are(Mutant::CrashForgotten);
        for Kept { on_disk, .. } in &mut replica.spool {
            if !matches!(on_disk, OnDisk::Pending { .. }) {
                *on_disk = OnDisk::Pending { flagged: true };
            }
        }
        for copy in self.copies.iter_mut().filter(|copy| copy.at == at && copy.phase != Phase::Idle) {
            copy.phase = Phase::Done;
        }
    }

    /// A probe was answered: what the store is owed, one call after another, and then it is asked again.
    fn store_is_back(&mut self, at: u8, rules: Rules) {
        let memory = &mut self.replicas[usize::from(at)].memory;
        if memory.repairs.is_empty() {
            memory.up = true;
        } else {
            self.store.run(memory.repairs.remove(0), rules);
        }
    }

    fn pay_for(&mut self, net: Net, at: u8) {
        if net != Net::Answered && self.memory(at).up {
            self.spend(|left| &mut left.store_faults);
        }
    }

    fn spend(&mut self, what: impl FnOnce(&mut Incidents) -> &mut u8) {
        *what(&mut self.left) -= 1;
        self.left.all -= 1;
    }

    fn is_on_disk(&self) -> bool {
        self.replicas.iter().any(|replica| !replica.spool.is_empty())
    }

    fn is_safe(&self, what: &str) -> Result<(), String> {
        if self.accepted || self.is_on_disk() {
            return Ok(());
        }
        Err(format!("LOST: {what}, and it was neither accepted nor is it on disk"))
    }

    /// Whether nothing is under way and nothing owed, and no gateway ever died.
    fn is_at_rest(&self, plan: &Plan) -> bool {
        let at_rest = |copy: &Copy| matches!(copy.phase, Phase::Idle | Phase::Done);
        let told = |replica: &Replica| replica.memory.up && replica.memory.repairs.is_empty();
        self.left.crashes == plan.incidents.crashes
            && self.late.is_empty()
            && !self.stray
            && self.copies.iter().all(at_rest)
            && self.replicas.iter().all(told)
    }

    /// What holds in every state.
    pub fn check(&self, plan: &Plan) -> Result<(), String> {
        if self.is_at_rest(plan) && self.store.is_claimed() {
            return Err("a claim is held, and nobody is at it: its sender's repeat would have to wait".to_owned());
        }
        if self.acked {
            self.is_safe("it was acknowledged")?;
        }
        let marked_here = self.replicas.iter().any(|replica| replica.memory.mark == Mark::Processed);
        if marked_here || self.store.is_marked() {
            self.is_safe("it is marked")?;
        }
        Ok(())
    }
}

/// Each request is an owner of its own; what it leaves on disk is still its own.
const fn owner(copy: u8) -> u8 {
    copy + 1
}

#[allow(clippy::option_option, reason = "no answer, and an answer that says nothing")]
pub fn over(net: Net, store: &mut Slot, late: &mut Vec<Call>, call: Call, rules: Rules) -> Option<Option<Said>> {
    match net {
        Net::Answered => Some(store.run(call, rules)),
        Net::Lost => None,
        Net::Unheard => {
            store.run(call, rules);
            None
        }
        Net::Late => {
            late.push(call);
            late.sort_unstable();
            None
        }
    }
}
