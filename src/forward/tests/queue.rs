//! Queue mode: acknowledged from disk, sent from memory where that goes at once.

use super::*;

fn queue(change: impl FnOnce(&mut Route)) -> World {
    world(|route| {
        route.ack.mode = AckMode::Queue;
        change(route);
    })
}

#[tokio::test(start_paused = true)]
async fn an_event_is_acknowledged_before_the_application_is_asked_and_tried_again_like_any_other() {
    let world = queue(|_| {});
    world.does([(seconds(5), answered(500)), (seconds(5), answered(200))]);
    assert_eq!(world.send(1).await, ("spooled".to_owned(), Duration::ZERO));
    world.at(seconds(1)).await;
    assert_eq!((world.marks(), world.count(State::InFlight).await), (1, 1));
    world.at(LONG).await;
    assert_eq!(world.sendings(), [(0, 1, false), (15, 2, false)]);
    assert_eq!(world.spool.totals().pending(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_gets_no_slot_for_a_while_is_due_like_any_other_and_was_not_tried() {
    let world = queue(|route| route.app.max_in_flight = 1);
    world.does([(seconds(25), answered(200)), (seconds(1), answered(500))]);
    world.send(1).await;
    world.send(2).await;
    assert_eq!(world.count(State::InFlight).await, 2);
    world.at(seconds(9)).await;
    assert_eq!(world.count(State::InFlight).await, 2, "it waits in memory");
    // Else it would be read ahead again before it could be seen.
    *world.slowness.read.lock().unwrap() = seconds(4);
    world.at(seconds(11)).await;
    assert_eq!(world.count(State::InFlight).await, 1, "it waits on disk");
    *world.slowness.read.lock().unwrap() = Duration::ZERO;
    world.at(seconds(27)).await;
    assert_eq!(world.sendings()[..2], [(0, 1, false), (25, 1, false)]);
}

#[tokio::test(start_paused = true)]
async fn events_of_one_order_value_come_from_disk_in_their_order() {
    let world = queue(|_| {});
    world.does([(seconds(3), answered(500))]);
    let mut ids = Vec::new();
    for number in 1..4 {
        let event = Event { order_value: Some("a".to_owned()), ..world.event(number) };
        ids.push(event.id);
        assert_eq!(world.send_within(PATIENCE, event).await, ("spooled".to_owned(), Duration::ZERO));
    }
    world.at(LONG).await;
    let seen: Vec<EventId> = world.seen().iter().map(|seen| seen.event).collect();
    assert_eq!(seen, [ids[0], ids[0], ids[1], ids[2]]);
}

#[tokio::test(start_paused = true)]
async fn events_of_many_values_are_sent_at_once_as_far_as_there_are_slots() {
    let world = queue(|route| route.app.max_in_flight = 100);
    world.does([(); 150].map(|()| (seconds(7), answered(200))));
    for number in 0..150 {
        let event = Event { order_value: Some(number.to_string()), ..world.event(number) };
        assert_eq!(world.send_within(PATIENCE, event).await.0, "spooled");
    }
    world.at(seconds(6)).await;
    assert_eq!(world.running(), 100);
    world.at(LONG).await;
    assert_eq!((world.seen().len(), world.spool.totals().pending()), (150, 0));
}

#[tokio::test(start_paused = true)]
async fn while_the_application_is_down_events_are_kept_and_come_when_it_is_back() {
    let world = queue(|_| {});
    world.is_taken_for_down();
    for number in 1..4 {
        assert_eq!(world.send(number).await.0, "spooled");
    }
    assert_eq!((world.count(State::InFlight).await, world.count(State::Pending).await), (0, 3));
    world.at(seconds(6)).await;
    assert_eq!(world.sendings(), [(5, 1, false), (5, 1, false), (5, 1, false)], "the probe, and at once all others");
}

#[tokio::test(start_paused = true)]
async fn copies_are_not_sent_beside_each_other_and_what_was_asked_of_others_is_flagged() {
    let world = queue(|_| {});
    world.does([(seconds(30), answered(200))]);
    world.store.says.lock().unwrap().extend([Claimed::Unsure; 2]);
    assert_eq!(world.send(1).await.0, "spooled");
    world.at(seconds(1)).await;
    assert_eq!(world.send(1).await.0, "spooled");
    world.at(LONG).await;
    assert_eq!(world.sendings(), [(0, 1, true)]);
    *world.store.elsewhere.lock().unwrap() = Some(Elsewhere::Perhaps);
    assert_eq!(world.send(2).await.0, "spooled");
    world.at(2 * LONG).await;
    assert!(world.seen()[1].flagged, "another gateway has had it");
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_takes_nothing_is_told_and_nothing_is_sent() {
    let world = world_with(1, |route| route.ack.mode = AckMode::Queue);
    assert_eq!(world.send(1).await, ("unavailable spool_full".to_owned(), Duration::ZERO));
    world.at(seconds(1)).await;
    assert_eq!((world.sendings().len(), world.released()), (0, vec![Processed::Not]));
}

#[tokio::test(start_paused = true)]
async fn once_the_shutdown_has_begun_events_are_kept_for_the_next_start() {
    let world = queue(|_| {});
    world.deliverer.drain(Instant::now() + seconds(2));
    assert_eq!(world.send(1).await.0, "spooled");
    assert_eq!(world.ends(LONG).await, Settlement::Complete);
    world.at(LONG).await;
    assert_eq!((world.sendings().len(), world.count(State::Pending).await), (0, 1));
    assert_eq!(world.kept().await.0.attempts, 0);
}

#[tokio::test(start_paused = true)]
async fn what_the_disk_knows_after_all_when_it_is_to_be_written_is_a_duplicate() {
    let world = queue(|_| {});
    assert_eq!(world.send(1).await.0, "spooled");
    world.at(seconds(1)).await;
    world.store.says.lock().unwrap().extend([Claimed::Unread; 3]);
    assert_eq!(world.send(1).await, ("duplicate".to_owned(), Duration::ZERO));
    world.is_taken_for_down();
    assert_eq!(world.send(1).await, ("duplicate".to_owned(), Duration::ZERO));
    assert_eq!((world.spool.totals().pending(), world.released().len()), (0, 0));
    assert_eq!(world.send(2).await.0, "spooled", "the disk does not know it either");
    world.at(LONG).await;
    let sent: Vec<_> = world.seen().iter().map(|seen| (seen.attempt, seen.flagged)).collect();
    assert_eq!(sent, [(1, false), (1, true)]);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_under_way_of_what_the_disk_knows_after_all_is_the_last() {
    let world = world(|_| {});
    world.does([(seconds(40), answered(200)), (seconds(40), answered(500))]);
    assert_eq!(world.send(1).await.0, "spooled");
    world.at(seconds(60)).await;
    world.store.says.lock().unwrap().push_back(Claimed::Unread);
    assert_eq!(world.send(1).await, ("duplicate".to_owned(), seconds(27)));
    world.at(seconds(90)).await;
    let by = Instant::now() + PATIENCE;
    let Verdict::InFlight(first) = world.claims.claim(&world.event(1), seconds(40), by).await else {
        panic!("a copy would be sent beside the attempt");
    };
    assert!(matches!(first.outcome().await, Some(Settled::Duplicate)));
    world.at(LONG).await;
    assert_eq!(world.sendings(), [(0, 1, false), (60, 1, true)]);
    assert_eq!((world.spool.totals().pending(), world.marks()), (0, 3));
}
