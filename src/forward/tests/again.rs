//! Deliveries from disk: when, how often, flagged or not, and what ends them.

use super::*;
use crate::domain::app_url::AppUrl;
use crate::spool::{Possible, Settlement as Written};

/// An event that failed once, at the beginning of the world.
async fn failed(change: impl FnOnce(&mut Route)) -> World {
    let world = world(change);
    world.does([(Duration::ZERO, answered(500))]);
    assert_eq!(world.send(1).await.0, "spooled");
    world
}

fn after(count: u64) -> Timestamp {
    START.plus(seconds(count))
}

#[tokio::test(start_paused = true)]
async fn an_event_is_tried_at_the_moments_of_its_schedule_and_is_a_dead_letter_after_the_last() {
    let world = failed(|_| {}).await;
    world.does([(); 3].map(|()| (Duration::ZERO, answered(500))));
    world.at(LONG).await;
    assert_eq!(world.sendings(), [(0, 1, false), (10, 2, false), (30, 3, false), (70, 4, false)]);
    let (stored, state, reason) = world.kept().await;
    assert_eq!((stored.attempts, state, reason), (4, State::Dead, Some(DeadReason::AttemptsExhausted)));
    assert_eq!((stored.possible_duplicate, world.buried(DeadReason::AttemptsExhausted)), (Possible::No, 1));
}

#[tokio::test(start_paused = true)]
async fn an_event_that_may_have_been_processed_once_is_flagged_from_then_on() {
    let world = failed(|_| {}).await;
    world.does([(seconds(1), unknown()), (Duration::ZERO, answered(500)), (Duration::ZERO, answered(422))]);
    world.at(LONG).await;
    assert_eq!(world.sendings(), [(0, 1, false), (10, 2, false), (31, 3, true), (71, 4, true)]);
    let (stored, _, reason) = world.kept().await;
    assert_eq!((stored.possible_duplicate, reason), (Possible::Duplicate, Some(DeadReason::AppRejected)));
    assert_eq!(world.buried(DeadReason::AppRejected), 1);
}

#[tokio::test(start_paused = true)]
async fn a_sending_that_gets_no_answer_ends_with_its_time_and_is_flagged() {
    let world = failed(|route| route.app.attempt_timeout = seconds(5)).await;
    world.does([(seconds(100), answered(200))]);
    world.at(LONG).await;
    assert_eq!(world.sendings(), [(0, 1, false), (10, 2, false), (35, 3, true)]);
}

#[tokio::test(start_paused = true)]
async fn an_accepted_event_is_marked_counted_and_gone() {
    let world = failed(|_| {}).await;
    world.does([(seconds(2), answered(200))]);
    world.at(seconds(11)).await;
    assert_eq!((world.count(State::InFlight).await, world.marks()), (1, 1));
    assert_eq!(world.metrics.attempts_in_flight.with_label_values(&["r"]).get(), 1);
    world.at(seconds(13)).await;
    assert!(world.spool.list(Filter::default()).await.unwrap().is_empty());
    assert_eq!((world.marks(), world.metrics.deliveries_total.with_label_values(&["r"]).get()), (2, 1));
    let latency = world.metrics.delivery_latency_seconds.with_label_values(&["r"]);
    assert!((latency.get_sample_sum() - 12.0).abs() < 0.1, "{}", latency.get_sample_sum());
}

#[tokio::test(start_paused = true)]
async fn the_longer_of_the_schedules_wait_and_the_rest_asked_for_counts() {
    for (rest, due) in [("5", 30), ("35", 45)] {
        let world = failed(|_| {}).await;
        world.does([(Duration::ZERO, asks_for_rest(503, rest))]);
        world.at(seconds(11)).await;
        let put_off = world.kept().await.0.not_before;
        assert!((after(due)..after(due).plus(SHARED)).contains(&put_off), "{put_off:?}");
        world.at(LONG).await;
        assert_eq!(world.sendings()[2], (due, 3, false));
    }
    let world = world(|_| {});
    world.does([(Duration::ZERO, asks_for_rest(429, "25"))]);
    world.send(1).await;
    assert_eq!(world.kept().await.0.not_before, after(25), "of the first attempt too");
}

#[tokio::test(start_paused = true)]
async fn probes_from_disk_are_not_counted_against_their_event_and_never_its_last() {
    for (waits, moments) in [(vec![], [5, 35, 65]), (vec![seconds(40); 9], [5, 45, 85])] {
        let world = world(|route| route.delivery.schedule = Schedule::Listed(waits));
        world.is_taken_for_down();
        world.send(1).await;
        world.does([(); 3].map(|()| (Duration::ZERO, unreachable())));
        world.at(seconds(86)).await;
        assert_eq!(world.sendings(), moments.map(|at| (at, 1, false)));
        let (stored, state, _) = world.kept().await;
        assert_eq!((stored.attempts, state), (0, State::Pending));
    }
}

#[tokio::test(start_paused = true)]
async fn when_the_application_is_back_what_waits_goes_at_once() {
    let world = world(|_| {});
    world.is_taken_for_down();
    for number in 1..4 {
        world.send(number).await;
    }
    world.at(seconds(4)).await;
    assert_eq!((world.sendings().len(), world.deliverer.app_is_up("r")), (0, false));
    world.at(seconds(6)).await;
    assert_eq!(world.sendings(), [(5, 1, false); 3]);
    assert!(world.deliverer.app_is_up("r") && world.deliverer.app_is_up("no route"));
    assert_eq!(world.metrics.app_up.with_label_values(&["r"]).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_whom_the_application_takes_wakes_what_waits_on_disk() {
    let world = world(|_| {});
    world.is_taken_for_down();
    world.at(seconds(6)).await;
    world.does([(seconds(3), answered(200))]);
    let behind = async {
        world.at(seconds(7)).await;
        world.send(2).await
    };
    let (probe, behind) = tokio::join!(world.send(1), behind);
    assert_eq!(probe, ("delivered 200".to_owned(), seconds(3)));
    assert_eq!(behind, ("spooled".to_owned(), Duration::ZERO));
    world.at(seconds(20)).await;
    // The next probe would have been due at eleven.
    assert_eq!(world.sendings(), [(6, 1, false), (9, 1, false)]);
}

#[tokio::test(start_paused = true)]
async fn an_event_may_be_as_old_as_configured_and_not_a_moment_older() {
    for (max_age, sent) in [(seconds(10), true), (Duration::from_millis(9999), false)] {
        let world = failed(|route| route.delivery.max_age = max_age).await;
        world.at(LONG).await;
        assert_eq!(world.sendings().len(), 1 + usize::from(sent), "{max_age:?}");
        assert_eq!(world.buried(DeadReason::TooOld), u64::from(!sent));
        if !sent {
            let (stored, state, reason) = world.kept().await;
            assert_eq!((state, reason, stored.attempts), (State::Dead, Some(DeadReason::TooOld), 1));
            assert!(stored.last_error.contains("9.999s"), "{}", stored.last_error);
            // An operator may have it sent all the same.
            world.spool.revive(stored.event.id, world.deliverer.0.clock.now()).await.unwrap();
            world.deliverer.wake();
            world.at(2 * LONG).await;
            assert!(world.seen()[1].replay && !world.seen()[1].flagged && !world.seen()[0].replay);
            assert_eq!(world.spool.totals().pending(), 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_another_gateway_has_had_is_flagged_and_nobody_is_asked_about_what_is_flagged_already() {
    let world = failed(|_| {}).await;
    *world.store.elsewhere.lock().unwrap() = Some(Elsewhere::Perhaps);
    world.does([(Duration::ZERO, answered(500)), (Duration::ZERO, answered(422))]);
    world.at(seconds(11)).await;
    assert_eq!((world.sendings()[1], *world.store.vouched.lock().unwrap()), ((10, 2, true), 1));
    world.at(LONG).await;
    assert_eq!((world.sendings()[2], *world.store.vouched.lock().unwrap()), ((30, 3, true), 1));
    // A dead letter that an operator wants sent again is not asked about.
    let world = failed(|route| route.delivery.max_age = seconds(1)).await;
    *world.store.elsewhere.lock().unwrap() = Some(Elsewhere::Perhaps);
    world.at(LONG).await;
    let id = world.kept().await.0.event.id;
    world.spool.revive(id, world.deliverer.0.clock.now()).await.unwrap();
    world.deliverer.wake();
    world.at(2 * LONG).await;
    assert_eq!((world.seen().len(), world.seen()[1].flagged, *world.store.vouched.lock().unwrap()), (2, false, 0));
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_flagged_on_disk_is_sent_without_a_question() {
    let world = world(|_| {});
    world.does([(Duration::ZERO, unknown())]);
    world.send(1).await;
    world.at(LONG).await;
    assert_eq!(world.sendings(), [(0, 1, false), (10, 2, true)]);
    assert_eq!(*world.store.vouched.lock().unwrap(), 0);
}

/// So many events that are due in ten seconds, by themselves: nobody wakes anybody.
async fn due_in_ten(count: u32, most_in_flight: usize) -> World {
    let world = world(|route| route.app.max_in_flight = most_in_flight);
    world.does([(Duration::ZERO, asks_for_rest(503, "10"))]);
    for number in 0..count {
        assert_eq!(world.send(number).await.0, "spooled");
    }
    assert_eq!(world.seen().len(), 1);
    world
}

#[tokio::test(start_paused = true)]
async fn as_many_are_sent_from_disk_at_once_as_the_route_allows() {
    for most in [3, 100, 140] {
        let world = due_in_ten(150, most).await;
        world.does([(); 150].map(|()| (seconds(7), answered(200))));
        world.at(seconds(11)).await;
        assert_eq!(world.running(), most);
        world.at(LONG).await;
        assert_eq!((world.seen().len(), world.app.running.lock().unwrap().1), (151, most), "each of them once more");
        assert_eq!(world.spool.totals().pending(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_does_not_give_an_event_out_is_not_asked_for_all_the_others_at_once() {
    let world = due_in_ten(40, 2).await;
    world.at(Duration::from_millis(9900)).await;
    *world.slowness.read.lock().unwrap() = seconds(3);
    // What is due is said, and then nothing more.
    *world.slowness.quick_reads.lock().unwrap() = 1;
    let before = *world.slowness.reads.lock().unwrap();
    world.at(seconds(30)).await;
    let asked = *world.slowness.reads.lock().unwrap() - before;
    assert!((4..13).contains(&asked), "{asked} reads in twenty seconds");
    *world.slowness.read.lock().unwrap() = Duration::ZERO;
    world.at(LONG).await;
    assert_eq!(world.spool.totals().pending(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_being_sent_is_not_picked_again_however_often_somebody_looks() {
    let world = failed(|_| {}).await;
    world.does([(seconds(50), answered(200))]);
    for second in 10..60 {
        world.at(seconds(second)).await;
        world.deliverer.wake();
    }
    world.at(LONG).await;
    assert_eq!(world.sendings(), [(0, 1, false), (10, 2, false)]);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_cannot_be_read_for_a_while_costs_that_while_alone() {
    let world = failed(|_| {}).await;
    world.at(seconds(9)).await;
    *world.slowness.read.lock().unwrap() = seconds(3);
    world.at(seconds(20)).await;
    *world.slowness.read.lock().unwrap() = Duration::ZERO;
    assert_eq!(world.sendings().len(), 1);
    world.at(seconds(25)).await;
    assert_eq!(world.sendings().len(), 2);
    assert_eq!(world.sendings()[1].1, 2);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_the_disk_is_slow_to_note_gives_its_slot_to_others_and_is_put_off_uncounted() {
    let world = failed(|route| route.app.max_in_flight = 1).await;
    world.at(seconds(9)).await;
    *world.slowness.commit.lock().unwrap() = seconds(5);
    world.at(seconds(11)).await;
    assert_eq!(world.send(2).await, ("delivered 200".to_owned(), Duration::ZERO), "the slot is free");
    world.at(seconds(14)).await;
    *world.slowness.commit.lock().unwrap() = Duration::ZERO;
    world.at(LONG).await;
    assert_eq!(world.seen().len(), 3);
    assert_eq!(world.seen()[2].attempt, 2, "what did not take place does not count");
    assert_eq!(world.spool.totals().pending(), 0);
}

#[tokio::test(start_paused = true)]
async fn once_the_shutdown_has_begun_nothing_is_sent_from_disk_and_what_is_running_is_waited_for() {
    let world = failed(|_| {}).await;
    world.at(seconds(5)).await;
    world.deliverer.drain(Instant::now());
    let from = Instant::now();
    assert_eq!((world.ends(LONG).await, from.elapsed()), (Settlement::Complete, Duration::ZERO));
    world.at(LONG).await;
    assert_eq!(world.sendings().len(), 1);
    let running = failed(|_| {}).await;
    running.does([(seconds(20), answered(200))]);
    running.at(seconds(11)).await;
    running.deliverer.drain(Instant::now());
    assert_eq!(running.ends(seconds(1)).await, Settlement::CutOff);
    assert_eq!(running.ends(LONG).await, Settlement::Complete);
    let ended = running.began.elapsed();
    assert!((seconds(30)..seconds(30) + SHARED).contains(&ended), "{ended:?}");
    assert_eq!(running.spool.totals().pending(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_route_that_is_configured_anew_goes_on_and_one_that_is_gone_waits_until_it_is_back() {
    let world = failed(|_| {}).await;
    let mut other = fixture("r");
    other.delivery.max_age = seconds(5);
    world.deliverer.configure(&[Arc::new(other)]);
    world.at(seconds(11)).await;
    assert_eq!((world.sendings().len(), world.buried(DeadReason::TooOld)), (1, 1), "by the new rules");
    let gone = failed(|_| {}).await;
    gone.deliverer.configure(&[]);
    gone.at(LONG).await;
    assert_eq!(gone.sendings().len(), 1);
    gone.deliverer.configure(std::slice::from_ref(&gone.route));
    gone.at(LONG + seconds(1)).await;
    assert_eq!(gone.sendings().len(), 2, "at once");
    gone.deliverer.drain(Instant::now());
    assert_eq!(gone.ends(Duration::from_millis(1)).await, Settlement::Complete, "no loop of former routes is left");
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_while_its_route_is_configured_anew_is_tried_again_in_its_time() {
    let world = failed(|_| {}).await;
    world.does([(seconds(2), answered(500))]);
    world.at(seconds(11)).await;
    assert_eq!(world.running(), 1);
    world.deliverer.configure(std::slice::from_ref(&world.route));
    world.at(LONG).await;
    assert_eq!(world.sendings(), [(0, 1, false), (10, 2, false), (32, 3, false)]);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_settled_or_put_off_while_it_is_read_is_not_sent() {
    let (reason, possible_duplicate) = (DeadReason::AppRejected, Possible::No);
    let dead = Written::Dead { reason, possible_duplicate, error: String::new() };
    for (became, sendings) in [(dead, 1), (Written::Postpone { not_before: after(50) }, 2)] {
        let world = failed(|_| {}).await;
        world.at(seconds(9)).await;
        let id = world.kept().await.0.event.id;
        *world.slowness.read.lock().unwrap() = seconds(1);
        // It was seen to be due in the second before, and is read in the one that has begun.
        world.at(Duration::from_millis(11_500)).await;
        world.spool.settle(id, became).await.unwrap();
        world.at(seconds(40)).await;
        assert_eq!(world.sendings(), [(0, 1, false)]);
        world.at(LONG).await;
        assert_eq!(world.sendings().len(), sendings);
    }
}

#[tokio::test(start_paused = true)]
async fn routes_of_one_application_share_what_is_known_of_it_and_others_do_not() {
    let world = world(|_| {});
    let named = |name: &str, url: &str| {
        let mut route = fixture(name);
        route.app.url = AppUrl::parse(url).expect("an address");
        Arc::new(route)
    };
    let same = named("same", world.route.app.url.as_str());
    world.deliverer.configure(&[world.route.clone(), same, named("other", "http://another")]);
    world.is_taken_for_down();
    assert!(!world.deliverer.app_is_up("same") && world.deliverer.app_is_up("other"));
}
