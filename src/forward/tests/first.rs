//! First deliveries: what the sender is told, when, and what is left behind on disk and in the dedup store.

use std::task::Poll;

use super::*;
use crate::spool::Possible;

fn spooled(after: u64) -> (String, Duration) {
    ("spooled".to_owned(), seconds(after))
}

fn says(word: &str, after: u64) -> (String, Duration) {
    (word.to_owned(), seconds(after))
}

fn plain(_: &mut Route) {}

fn sync(route: &mut Route) {
    route.ack.mode = AckMode::Sync;
}

fn passes(route: &mut Route) {
    route.ack.on_app_failure = OnApp::Pass;
}

#[tokio::test(start_paused = true)]
async fn an_answer_in_time_is_the_senders_and_nothing_is_written() {
    let world = world(|_| {});
    world.does([(seconds(26), answered(201))]);
    assert_eq!(world.send(1).await, says("delivered 201", 26));
    world.at(seconds(27)).await;
    assert_eq!((world.spool.totals().pending(), world.marks(), world.released().len()), (0, 1, 0));
    assert_eq!(world.store.marked.lock().unwrap()[0], (world.event(1).key, world.route.dedup_ttl));
    assert_eq!(world.sendings(), [(0, 1, false)]);
}

#[tokio::test(start_paused = true)]
async fn who_can_wait_no_longer_is_answered_from_disk_and_the_attempt_settles_the_event() {
    let world = world(|_| {});
    world.does([(seconds(40), answered(200))]);
    assert_eq!(world.send(1).await, spooled(27), "a second is kept for the commit");
    assert_eq!((world.running(), world.count(State::InFlight).await), (1, 1));
    assert_eq!(world.kept().await.0.attempts, 1);
    assert_eq!(world.metrics.attempts_in_flight.with_label_values(&["r"]).get(), 1);
    world.at(seconds(41)).await;
    assert_eq!((world.running(), world.spool.totals().pending()), (0, 0));
    assert_eq!(world.metrics.attempts_in_flight.with_label_values(&["r"]).get(), 0);
    world.at(LONG).await;
    assert_eq!(world.sendings(), [(0, 1, false)], "never a second call for the end of the budget");
}

#[tokio::test(start_paused = true)]
async fn who_is_watched_waits_without_a_timer_until_the_first_look_and_is_answered_in_time_all_the_same() {
    for looked_at in [Some(0), Some(5), Some(27), None] {
        let world = world(|_| {});
        world.does([(seconds(40), answered(200))]);
        let (event, by) = (world.event(1), Instant::now() + PATIENCE);
        let Verdict::Claimed(held) = world.claims.claim(&event, seconds(40), by).await else { panic!("it is new") };
        let (event, route) = (Arc::new(event), world.route.clone());
        let mut delivery = Box::pin(world.deliverer.deliver_watched(Watched::Yes, event, route, held, by, ()));
        assert!(poll_fn(|cx| Poll::Ready(delivery.as_mut().poll(cx).is_pending())).await);
        match looked_at {
            Some(second) => {
                world.at(seconds(second)).await;
                assert_eq!((told(delivery.await), world.began.elapsed()), spooled(27));
            }
            None => drop(delivery),
        }
        world.at(seconds(28)).await;
        assert_eq!(world.count(State::InFlight).await, 1, "{looked_at:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_fails_behind_its_senders_back_is_tried_again() {
    for (outcome, flagged) in [(answered(500), false), (unknown(), true), (unreachable(), false)] {
        let world = world(|_| {});
        world.does([(seconds(40), outcome)]);
        assert_eq!(world.send(1).await, spooled(27));
        world.at(LONG).await;
        assert_eq!(world.sendings(), [(0, 1, false), (50, 2, flagged)]);
    }
}

#[tokio::test(start_paused = true)]
async fn of_a_short_budget_a_third_is_kept_for_the_commit() {
    for (patience, replied) in [(2400, 1600), (1500, 1000), (3000, 2000), (4000, 3000)] {
        let world = world(|_| {});
        world.does([(seconds(40), answered(200))]);
        let (told, took) = world.send_within(Duration::from_millis(patience), world.event(1)).await;
        assert_eq!(told, "spooled");
        assert!(took.as_millis().abs_diff(replied) <= 1, "{patience} ms: {took:?}");
    }
}

/// What an application does, in which mode, and what comes of it.
struct Case {
    change: fn(&mut Route),
    outcome: Outcome,
    told: &'static str,
    /// Where it stands on disk, with its attempts and its flag.
    kept: Option<(State, Option<DeadReason>, u32, Possible)>,
    released: &'static [Processed],
    marks: usize,
}

fn cases() -> Vec<Case> {
    let pending = |possible| Some((State::Pending, None, 1, possible));
    let dead = Some((State::Dead, Some(DeadReason::AppRejected), 1, Possible::No));
    let kept = |outcome, possible| Case {
        change: plain,
        outcome,
        told: "spooled",
        kept: pending(possible),
        released: &[],
        marks: 1,
    };
    let mut all = vec![
        kept(answered(500), Possible::No),
        kept(answered(302), Possible::No),
        kept(unreachable(), Possible::No),
        kept(unknown(), Possible::Duplicate),
        Case {
            change: |route| route.ack.on_app_rejection = OnApp::Absorb,
            kept: dead,
            ..kept(answered(422), Possible::No)
        },
    ];
    let passed = |change: fn(&mut Route), outcome, told, kept, released: &'static [Processed]| Case {
        change,
        outcome,
        told,
        kept,
        released,
        marks: 0,
    };
    all.push(passed(plain, answered(422), "app_rejected 422", dead, &[Processed::Not]));
    for change in [sync as fn(&mut Route), passes] {
        all.push(passed(change, answered(500), "app_failed 500", None, &[Processed::Not]));
        all.push(passed(change, unreachable(), "app_failed for us 502", None, &[Processed::Not]));
        all.push(passed(change, unknown(), "app_failed for us 504", None, &[Processed::Perhaps]));
    }
    all.push(passed(sync, answered(422), "app_rejected 422", None, &[Processed::Not]));
    all.push(passed(passes, answered(422), "app_rejected 422", dead, &[Processed::Not]));
    all
}

#[tokio::test(start_paused = true)]
async fn what_the_application_does_in_time_decides_what_is_told_kept_and_remembered() {
    for (place, case) in cases().into_iter().enumerate() {
        let what = format!("case {place}: {}", case.outcome.as_str());
        let world = world(case.change);
        world.does([(seconds(1), case.outcome)]);
        assert_eq!(world.send(1).await, says(case.told, 1), "{what}");
        world.at(seconds(2)).await;
        let nothing = world.spool.list(Filter::default()).await.unwrap().is_empty();
        let kept = if nothing { None } else { Some(world.kept().await) };
        let kept = kept.map(|(stored, state, reason)| (state, reason, stored.attempts, stored.possible_duplicate));
        assert_eq!(kept, case.kept, "{what}");
        assert_eq!((world.released().as_slice(), world.marks()), (case.released, case.marks), "{what}");
        let dead = kept.is_some_and(|(state, ..)| state == State::Dead);
        assert_eq!(world.buried(DeadReason::AppRejected), u64::from(dead), "{what}");
        assert_eq!(world.sendings().len(), 1, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_that_was_not_verified_or_is_not_to_be_buffered_comes_to_disk() {
    for believed in [false, true] {
        for (outcome, after, word, took) in [
            (answered(500), 1, "app_failed 500", 1),
            (answered(422), 1, "app_rejected 422", 1),
            (answered(200), 40, "app_failed for us 504", 27),
        ] {
            let world = world(if believed { sync as fn(&mut Route) } else { plain });
            world.does([(seconds(after), outcome)]);
            let (event, by) = (world.event(1), Instant::now() + PATIENCE);
            let told = if believed {
                world.send_within(PATIENCE, event).await
            } else {
                world.give(world.claims.unclaimed(&event), by, event).await
            };
            assert_eq!(told, says(word, took), "believed: {believed}");
            world.at(LONG).await;
            assert!(world.spool.totals().routes.is_empty(), "{word}");
            assert_eq!(world.sendings().len(), 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_an_attempt_that_nobody_keeps_only_the_outcome_is_remembered() {
    for (outcome, marks, released) in [
        (answered(200), 1, vec![]),
        (answered(500), 0, vec![Processed::Not]),
        (answered(422), 0, vec![Processed::Not]),
        (unreachable(), 0, vec![Processed::Not]),
        (unknown(), 0, vec![Processed::Perhaps]),
    ] {
        // In a mode that buffers nothing, and where the disk is full.
        for (max_bytes, change, word) in [
            (1 << 30, sync as fn(&mut Route), "app_failed for us 504"),
            (1, plain as fn(&mut Route), "unavailable spool_full"),
        ] {
            let world = world_with(max_bytes, change);
            world.does([(seconds(40), outcome.clone())]);
            assert_eq!(world.send(1).await, says(word, 27));
            assert_eq!((world.marks(), world.released().len()), (0, 0), "it is not over");
            world.at(seconds(41)).await;
            assert_eq!((world.marks(), world.released()), (marks, released.clone()), "{word}: {}", outcome.as_str());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_told_and_a_rejection_is_passed_on_without_its_copy() {
    for (outcome, word, released, lost) in [
        (unreachable(), "unavailable spool_full", Processed::Not, 0),
        (answered(503), "unavailable spool_full", Processed::Not, 0),
        (unknown(), "unavailable spool_full", Processed::Perhaps, 0),
        (answered(422), "app_rejected 422", Processed::Not, 1),
    ] {
        let world = world_with(1, |_| {});
        world.does([(seconds(1), outcome)]);
        assert_eq!(world.send(1).await, says(word, 1));
        world.at(seconds(2)).await;
        assert_eq!((world.released(), world.marks()), (vec![released], 0));
        assert_eq!(world.metrics.dead_letter_copies_lost_total.with_label_values(&["r"]).get(), lost);
        assert_eq!(world.buried(DeadReason::AppRejected), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_stalls_keeps_no_sender_waiting_and_what_it_takes_in_the_end_is_delivered() {
    let world = world(|_| {});
    world.does([(seconds(1), unreachable())]);
    *world.slowness.commit.lock().unwrap() = seconds(60);
    assert_eq!(world.send(1).await, says("unavailable spool_failed", 28));
    *world.slowness.commit.lock().unwrap() = Duration::ZERO;
    world.at(LONG).await;
    assert_eq!((world.sendings().len(), world.spool.totals().pending(), world.released().len()), (2, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_rejection_waits_a_second_for_its_copy_and_the_copy_half_a_minute_for_the_disk() {
    for (app_takes, told_after, stall, lost) in [(1, 2, 25, 0), (27, 28, 25, 0), (1, 2, 60, 1)] {
        let world = world(|_| {});
        world.does([(seconds(app_takes), answered(422))]);
        *world.slowness.commit.lock().unwrap() = seconds(stall);
        assert_eq!(world.send(1).await, says("app_rejected 422", told_after));
        *world.slowness.commit.lock().unwrap() = Duration::ZERO;
        assert_eq!(world.released(), [Processed::Not], "it may come again, mended");
        world.at(LONG).await;
        assert_eq!(world.metrics.dead_letter_copies_lost_total.with_label_values(&["r"]).get(), lost);
        assert_eq!((world.sendings().len(), world.buried(DeadReason::AppRejected)), (1, 1 - lost));
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_attempt_that_fails_is_a_dead_letter_at_once() {
    let world = world(|route| route.delivery.schedule = Schedule::Listed(Vec::new()));
    world.does([(seconds(1), answered(500))]);
    assert_eq!(world.send(1).await, spooled(1));
    let (stored, state, reason) = world.kept().await;
    assert_eq!((stored.attempts, state, reason), (1, State::Dead, Some(DeadReason::AttemptsExhausted)));
    assert_eq!(stored.last_error, answered(500).describe());
    world.at(LONG).await;
    assert_eq!((world.sendings().len(), world.buried(DeadReason::AttemptsExhausted)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_probe_is_never_its_events_last_attempt_and_otherwise_it_counts() {
    for (waits, attempts) in [(vec![], 0), (vec![seconds(10)], 1)] {
        let world = world(|route| route.delivery.schedule = Schedule::Listed(waits));
        world.is_taken_for_down();
        world.at(seconds(6)).await;
        world.does([(seconds(1), answered(500))]);
        assert_eq!(world.send(1).await, spooled(1));
        assert_eq!(world.sendings(), [(6, 1, false)], "it was the probe");
        let (stored, state, _) = world.kept().await;
        assert_eq!((stored.attempts, state), (attempts, State::Pending));
    }
}

#[tokio::test(start_paused = true)]
async fn an_application_that_is_down_or_rests_is_not_asked_for_what_can_wait() {
    for rests in [false, true] {
        let world = world(|_| {});
        if rests {
            world.does([(Duration::ZERO, asks_for_rest(503, "60"))]);
            assert_eq!(world.send(1).await, spooled(0));
        } else {
            world.is_taken_for_down();
        }
        let before = world.sendings().len();
        let (told, took) = world.send(2).await;
        assert_eq!((told.as_str(), took), ("spooled", Duration::ZERO), "rests: {rests}");
        assert_eq!(world.sendings().len(), before);
        let listed = world.spool.list(Filter::default()).await.unwrap();
        let last = listed.iter().find(|one| one.key == world.event(2).key).unwrap();
        assert_eq!((last.attempts, last.due()), (0, Some(START)), "it may be tried as soon as anybody may");
        assert!(last.last_error.contains("considered down"), "{}", last.last_error);
    }
}

#[tokio::test(start_paused = true)]
async fn what_nobody_keeps_is_tried_even_where_the_application_is_taken_for_down() {
    for change in [sync as fn(&mut Route), passes] {
        let world = world(change);
        world.is_taken_for_down();
        assert_eq!(world.send(1).await, says("delivered 200", 0));
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_finds_no_slot_as_long_as_his_sender_waits_goes_to_disk_or_is_told_to_come_back() {
    let busy = "unavailable overloaded";
    for (change, word) in
        [(plain as fn(&mut Route), "spooled"), (passes as fn(&mut Route), busy), (sync as fn(&mut Route), busy)]
    {
        let world = world(|route| {
            change(route);
            route.app.max_in_flight = 1;
        });
        world.does([(seconds(50), answered(200))]);
        let (_, second) = tokio::join!(world.send(1), world.send(2));
        assert_eq!(second, says(word, 27));
        assert_eq!(world.sendings().len(), 1);
        if word == "spooled" {
            let listed = world.spool.list(Filter::default()).await.unwrap();
            let waits = listed.iter().find(|one| one.state == State::Pending).unwrap();
            assert!(waits.attempts == 0 && waits.last_error.contains("slots stayed taken"), "{waits:?}");
        } else {
            world.at(seconds(28)).await;
            assert_eq!(world.released(), [Processed::Not]);
        }
        world.at(LONG).await;
        assert_eq!(world.app.running.lock().unwrap().1, 1, "never two at a time");
    }
}

fn of_value(world: &World, number: u32, value: &str) -> Event {
    Event { order_value: Some(value.to_owned()), ..world.event(number) }
}

#[tokio::test(start_paused = true)]
async fn events_of_one_order_value_are_sent_one_after_the_other_and_others_beside_them() {
    let world = world(|_| {});
    world.does([(seconds(3), answered(200)), (seconds(3), answered(200)), (seconds(3), answered(200))]);
    let (first, second, other) = tokio::join!(
        world.send_within(PATIENCE, of_value(&world, 1, "a")),
        world.send_within(PATIENCE, of_value(&world, 2, "a")),
        world.send_within(PATIENCE, of_value(&world, 3, "b")),
    );
    let sent = "delivered 200";
    assert_eq!((first, second, other), (says(sent, 3), says(sent, 6), says(sent, 3)));
}

#[tokio::test(start_paused = true)]
async fn an_event_behind_one_on_disk_goes_to_disk_unless_nothing_is_buffered() {
    let relay = world(|_| {});
    relay.does([(Duration::ZERO, answered(500))]);
    assert_eq!(relay.send_within(PATIENCE, of_value(&relay, 1, "a")).await, spooled(0));
    assert_eq!(relay.send_within(PATIENCE, of_value(&relay, 2, "a")).await, spooled(0));
    assert_eq!(relay.send_within(PATIENCE, of_value(&relay, 3, "b")).await, says("delivered 200", 0));
    let listed = relay.spool.list(Filter::default()).await.unwrap();
    let second = listed.iter().find(|one| one.key == relay.event(2).key).unwrap();
    assert!(second.last_error.contains("earlier event"), "{}", second.last_error);
    relay.at(LONG).await;
    let order: Vec<EventId> = relay.seen().iter().map(|seen| seen.event).collect();
    assert_eq!(order.len(), 4);
    assert_eq!((order[0], order[3]), (order[2], second.id), "in the order in which they were acknowledged");
    let unbuffered = world(sync);
    unbuffered.does([(seconds(3), answered(200))]);
    let (_, second) = tokio::join!(
        unbuffered.send_within(PATIENCE, of_value(&unbuffered, 1, "a")),
        unbuffered.send_within(PATIENCE, of_value(&unbuffered, 2, "a")),
    );
    assert_eq!(second, says("delivered 200", 0));
}

#[tokio::test(start_paused = true)]
async fn who_runs_out_of_time_behind_another_sends_him_to_disk_and_goes_there_after_him() {
    let world = world(|_| {});
    world.does([(seconds(40), answered(200))]);
    let (first, second) = tokio::join!(
        world.send_within(PATIENCE, of_value(&world, 1, "a")),
        world.send_within(seconds(10), of_value(&world, 2, "a")),
    );
    assert_eq!((first, second), (spooled(9), spooled(9)));
    world.at(LONG).await;
    assert_eq!(world.sendings(), [(0, 1, false), (40, 1, false)]);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_his_turn_behind_one_that_the_disk_does_not_take_is_answered_in_time() {
    let world = world(|_| {});
    world.does([(seconds(40), answered(200))]);
    *world.slowness.commit.lock().unwrap() = seconds(100);
    let (first, second) = tokio::join!(
        world.send_within(PATIENCE, of_value(&world, 1, "a")),
        world.send_within(seconds(10), of_value(&world, 2, "a")),
    );
    assert_eq!((first, second), (says("unavailable spool_failed", 28), says("unavailable spool_failed", 10)));
}

#[tokio::test(start_paused = true)]
async fn no_copy_of_an_event_that_nobody_can_vouch_for_is_sent_beside_another_or_after_its_acceptance() {
    let world = world(|_| {});
    world.store.says.lock().unwrap().extend([Claimed::Unsure; 2]);
    world.does([(seconds(40), answered(200))]);
    assert_eq!(world.send(1).await, spooled(27));
    world.at(seconds(30)).await;
    assert_eq!(world.send(1).await, spooled(0), "its copy waits on disk");
    let listed = world.spool.list(Filter::default()).await.unwrap();
    assert!(listed.iter().any(|one| one.last_error.contains("a copy")), "{listed:?}");
    world.at(LONG).await;
    assert_eq!(world.sendings(), [(0, 1, true)], "flagged, for it may have been processed before");
    assert_eq!(world.spool.totals().pending(), 0);
    assert_eq!(world.metrics.possible_duplicates_total.with_label_values(&["r"]).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn no_copy_is_sent_beside_another_because_the_own_table_could_not_be_read() {
    let world = world(|_| {});
    world.store.says.lock().unwrap().extend([Claimed::Unread; 2]);
    world.does([(seconds(40), answered(200))]);
    assert_eq!(world.send(1).await, spooled(27), "the disk does not know it");
    world.at(seconds(30)).await;
    assert_eq!(world.send(1).await, says("duplicate", 0), "now it does");
    world.at(LONG).await;
    assert_eq!(world.sendings(), [(0, 1, true)]);
}

#[tokio::test(start_paused = true)]
async fn copies_that_a_store_takes_for_new_do_not_wait_for_each_other() {
    let world = world(|_| {});
    world.does([(seconds(40), answered(200))]);
    assert_eq!(world.send(1).await, spooled(27));
    world.at(seconds(30)).await;
    assert_eq!(world.send(1).await, says("delivered 200", 0), "its store has said that it is another event");
}

#[tokio::test(start_paused = true)]
async fn an_event_whose_earlier_owner_vanished_is_sent_flagged() {
    let world = world(|_| {});
    world.store.says.lock().unwrap().extend([Claimed::Lapsed, Claimed::Conflict, Claimed::New]);
    for number in 1..4 {
        assert_eq!(world.send(number).await, says("delivered 200", 0));
    }
    assert_eq!(world.sendings(), [(0, 1, true), (0, 1, false), (0, 1, false)]);
    assert_eq!(world.metrics.possible_duplicates_total.with_label_values(&["r"]).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn after_a_stop_that_was_not_clean_what_may_be_older_is_sent_flagged_for_the_senders_horizon() {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let before = world(|_| {});
    before.deliverer.drain(Instant::now());
    assert_eq!(before.ends(LONG).await, Settlement::Complete);
    let World { folder, spool, claims, deliverer, route, .. } = before;
    drop((spool, claims, deliverer));
    tokio::time::sleep(seconds(1)).await;
    let stopped = START.plus(seconds(100));
    let world = world_in(folder, stopped, 1 << 30, route);
    assert!(world.spool.doubtful_before().is_some());
    let signed = |number, at| Event { signed_at: Some(at), ..world.event(number) };
    for (event, flagged) in
        [(world.event(1), true), (signed(2, START), true), (signed(3, stopped.plus(seconds(3600))), false)]
    {
        assert_eq!(world.send_within(PATIENCE, event).await.0, "delivered 200");
        assert_eq!(world.seen().last().unwrap().flagged, flagged);
    }
    for (number, (age, flagged)) in (100..).zip([(seconds(86_340), true), (DAY, false), (DAY + seconds(60), false)]) {
        world.at(age).await;
        world.send(number).await;
        assert_eq!(world.seen().last().unwrap().flagged, flagged, "after {age:?}");
    }
}
