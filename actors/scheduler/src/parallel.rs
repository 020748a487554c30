//! Owns how work over all nodes is shared between threads. Called by the scheduling cycle and by the index. What comes of it must
//! not depend on the number of threads: parts are put together in their order.

use std::ops::Range;

/// Nodes of one part, at least: below this a thread costs more than it saves.
const PART_MIN: usize = 512;

/// Divides so many places among at most so many threads, in order.
pub(crate) fn split(places: usize, threads: usize) -> Vec<Range<usize>> {
    let parts = threads.min(places / PART_MIN).max(1);
    let bound = |part: usize| places * part / parts;
    (0..parts).map(|part| bound(part)..bound(part + 1)).collect()
}

/// Works on each part in a thread of its own, the first in this one, and gives the answers in the order of the parts.
pub(crate) fn in_parallel<T: Send>(parts: &[Range<usize>], work: impl Fn(Range<usize>) -> T + Sync) -> Vec<T> {
    let Some((first, rest)) = parts.split_first() else {
        return Vec::new();
    };
    std::thread::scope(|scope| {
        let work = &work;
        let others: Vec<_> = rest
            .iter()
            .cloned()
            .map(|part| scope.spawn(move || work(part)))
            .collect();
        let mut answers = vec![work(first.clone())];
        for other in others {
            match other.join() {
                Ok(answer) => answers.push(answer),
                // A rule has panicked: the panic goes on in the caller's thread, as it would with one thread.
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        answers
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_all_places_in_order() {
        for (places, threads, parts) in [
            (0, 4, 1),
            (1, 4, 1),
            (1023, 4, 1),
            (1024, 4, 2),
            (5000, 4, 4),
            (5000, 1, 1),
        ] {
            let split = split(places, threads);
            assert_eq!(split.len(), parts, "{places} {threads}");
            let covered: Vec<usize> = split.into_iter().flatten().collect();
            assert_eq!(covered, (0..places).collect::<Vec<_>>());
        }
    }

    #[test]
    fn answers_come_in_the_order_of_the_parts() {
        let parts = split(4096, 8);
        let answers = in_parallel(&parts, |part| part.start);
        assert_eq!(answers, parts.iter().map(|part| part.start).collect::<Vec<_>>());
    }
}
