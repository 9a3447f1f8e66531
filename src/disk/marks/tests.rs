//! Marks whose commit fails.

use super::*;

const NOW: Timestamp = Timestamp::from_seconds(1_760_000_000);

fn mark(number: u8) -> Mark {
    let key = EventKey { slot: [number; 16], fingerprint: [1; 16] };
    Mark { key, kind: MarkKind::Processed, expires_at: NOW.plus(std::time::Duration::from_secs(60)) }
}

#[test]
fn where_marks_could_not_even_be_begun_to_be_written_the_next_one_asks_again() {
    let marks = Arc::new(Marks::new(Vec::new(), 10, Arc::new(Metrics::new(&[]).unwrap())));
    assert_eq!(marks.put(mark(1), NOW), Writing::MustBeAsked);
    assert_eq!(marks.put(mark(2), NOW), Writing::Asked);
    assert!(!marks.are_left(), "who was asked has not answered yet");
    let mut asked = WriteMarks::new(marks.clone(), NOW);
    asked.answer(Err(JobFault::Failed("no transaction".to_owned())));
    assert!(marks.are_left());
    assert_eq!(marks.put(mark(3), NOW), Writing::MustBeAsked);
    let taken = marks.lock().take().unwrap();
    assert_eq!(taken.marks().copied().collect::<Vec<_>>(), [1, 2, 3].map(mark));
}
