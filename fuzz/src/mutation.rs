//! How an input becomes another one. Pure but for the random source that it is given. The engine calls it.

use rand::Rng;
use rand::rngs::SmallRng;
use serde_json::{Map, Value, json};

/// What an input is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Bytes.
    Bytes,
    /// A text in which single characters mean something.
    Text,
    /// A JSON document; one in eight mutations is that of a text, so that broken documents come too.
    Json,
}

/// Characters that mean something in one language or another.
const CHARACTERS: &[u8] = b"{}[]()\"'\\,:;=!<>&|*?%#@.-_+/~ \t\n\r\x000123456789eEinfa$";

/// Pieces that are on the edge of what programs expect.
const PIECES: &[&str] = &[
    "-1",
    "0",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551616",
    "1e999",
    "-0.0",
    "NaN",
    "null",
    "true",
    "\\u0000",
    "\\ud800",
    "\u{0}",
    "\u{feff}",
    "\u{202e}",
    "ä",
    "\u{10ffff}",
    "%00",
    "../",
    "&a *a",
    "<<: *a",
    "!!binary ",
    "---\n",
    "|\n",
    "\"\"",
    "{}",
    "[]",
    "$patch",
    "$retainKeys",
    "$deleteFromPrimitiveList/",
    "$setElementOrder/",
];

/// Changes an input, a few times. `other` is another input, from which parts are taken.
pub fn mutate(input: &mut Vec<u8>, shape: Shape, dictionary: &[&str], other: &[u8], random: &mut SmallRng) {
    for _ in 0..random.random_range(1..=4) {
        match shape {
            Shape::Bytes => bytes(input, other, random),
            Shape::Text => text(input, dictionary, other, random),
            Shape::Json if random.random_range(0..8) == 0 => text(input, dictionary, other, random),
            Shape::Json => match serde_json::from_slice::<Value>(input) {
                Ok(mut value) => {
                    let donor = serde_json::from_slice(other).unwrap_or(Value::Null);
                    tree(&mut value, &donor, dictionary, random);
                    *input = value.to_string().into_bytes();
                }
                Err(_) => text(input, dictionary, other, random),
            },
        }
    }
}

/// A range within a length.
fn range(length: usize, random: &mut SmallRng) -> std::ops::Range<usize> {
    let from = random.random_range(0..=length);
    let most = (length - from).min(1 << random.random_range(0..9));
    from..from + random.random_range(0..=most)
}

fn bytes(input: &mut Vec<u8>, other: &[u8], random: &mut SmallRng) {
    let at = random.random_range(0..=input.len());
    match random.random_range(0..8) {
        0 if at < input.len() => input[at] ^= 1 << random.random_range(0..8),
        1 if at < input.len() => input[at] = random.random(),
        2 if at < input.len() => input[at] = [0, 1, 0x7f, 0x80, 0xff][random.random_range(0..5)],
        3 => input.insert(at, random.random()),
        4 => drop(input.drain(range(input.len(), random))),
        5 => {
            let again = input[range(input.len(), random)].to_vec();
            input.splice(at..at, again);
        }
        6 => {
            let taken = other[range(other.len(), random)].to_vec();
            input.splice(at..at, taken);
        }
        _ => {
            // A length or a number of eight bytes.
            let number: u64 = 1u64
                .checked_shl(random.random_range(0..64))
                .unwrap_or(0)
                .wrapping_sub(random.random_range(0..2));
            let width = [1, 2, 4, 8][random.random_range(0..4)];
            let encoded = if random.random() {
                number.to_be_bytes()
            } else {
                number.to_le_bytes()
            };
            let end = (at + width).min(input.len());
            input.splice(at..end, encoded[..width].iter().copied());
        }
    }
}

fn text(input: &mut Vec<u8>, dictionary: &[&str], other: &[u8], random: &mut SmallRng) {
    let at = random.random_range(0..=input.len());
    match random.random_range(0..7) {
        0 => input.insert(at, CHARACTERS[random.random_range(0..CHARACTERS.len())]),
        1 if at < input.len() => input[at] = CHARACTERS[random.random_range(0..CHARACTERS.len())],
        2 => drop(input.splice(at..at, word(dictionary, random).bytes())),
        3 => {
            let replaced = range(input.len(), random);
            drop(input.splice(replaced, word(dictionary, random).bytes()));
        }
        4 => {
            // The same again and again: nesting, long lists, long names.
            let piece = input[range(input.len(), random)].to_vec();
            let times = 1 << random.random_range(0..11);
            let room = (32 << 10) / piece.len().max(1);
            input.splice(at..at, piece.repeat(times.min(room)));
        }
        5 => drop(input.drain(range(input.len(), random))),
        _ => bytes(input, other, random),
    }
}

fn word<'a>(dictionary: &[&'a str], random: &mut SmallRng) -> &'a str {
    if dictionary.is_empty() || random.random_range(0..3) == 0 {
        PIECES[random.random_range(0..PIECES.len())]
    } else {
        dictionary[random.random_range(0..dictionary.len())]
    }
}

/// Changes one node of a tree.
fn tree(root: &mut Value, donor: &Value, dictionary: &[&str], random: &mut SmallRng) {
    let donated = {
        let mut donor = donor.clone();
        let at = random.random_range(0..count(&donor));
        node(&mut donor, &mut { at }).map(Value::take).unwrap_or_default()
    };
    let at = random.random_range(0..count(root));
    let Some(found) = node(root, &mut { at }) else { return };
    match (random.random_range(0..8), &mut *found) {
        (0, found) => *found = leaf(dictionary, random),
        (1, found) => *found = donated,
        (2, Value::Object(map)) => {
            let name = word(dictionary, random).to_owned();
            map.insert(name, donated);
        }
        (2, Value::Array(list)) => list.push(donated),
        (3, Value::Object(map)) => {
            if let Some(name) = any_name(map, random) {
                map.remove(&name);
            }
        }
        (3, Value::Array(list)) => drop(list.pop()),
        (4, Value::Array(list)) => {
            let times = 1 << random.random_range(0..7);
            let again = list.clone();
            for _ in 0..times.min(512 / again.len().max(1)) {
                list.extend(again.iter().cloned());
            }
        }
        (5, Value::Object(map)) => {
            // A field under another's name.
            if let Some(value) = any_name(map, random).and_then(|name| map.remove(&name)) {
                map.insert(word(dictionary, random).to_owned(), value);
            }
        }
        (6, found) => {
            for _ in 0..1 << random.random_range(0..8) {
                let inner = found.take();
                *found = if random.random() {
                    json!([inner])
                } else {
                    json!({"a": inner})
                };
            }
        }
        (_, Value::String(string)) => {
            let mut bytes = std::mem::take(string).into_bytes();
            text(&mut bytes, dictionary, word(dictionary, random).as_bytes(), random);
            bytes.truncate(4 << 10);
            *string = String::from_utf8_lossy(&bytes).into_owned();
        }
        (_, found) => *found = leaf(dictionary, random),
    }
}

fn any_name(map: &Map<String, Value>, random: &mut SmallRng) -> Option<String> {
    let at = random.random_range(0..map.len().max(1));
    map.keys().nth(at).cloned()
}

fn leaf(dictionary: &[&str], random: &mut SmallRng) -> Value {
    match random.random_range(0..9) {
        0 => Value::Null,
        1 => json!(random.random::<bool>()),
        2 => json!(random.random_range(-2..3)),
        3 => json!(random.random::<i64>()),
        4 => json!(random.random::<f64>() * 1e18),
        5 => json!([]),
        6 => json!({}),
        _ => json!(word(dictionary, random)),
    }
}

/// Nodes of a tree.
fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(count).sum(),
        Value::Object(map) => map.values().map(count).sum::<usize>(),
        _ => 0,
    }
}

/// The node with this number in the order of a walk.
fn node<'v>(value: &'v mut Value, left: &mut usize) -> Option<&'v mut Value> {
    if *left == 0 {
        return Some(value);
    }
    *left -= 1;
    match value {
        Value::Array(list) => list.iter_mut().find_map(|item| node(item, left)),
        Value::Object(map) => map.values_mut().find_map(|item| node(item, left)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn every_node_of_a_tree_is_reached() {
        let mut value = json!({"a": [1, {"b": 2}], "c": null});
        assert_eq!(count(&value), 6);
        for at in 0..6 {
            assert!(node(&mut value, &mut { at }).is_some(), "{at}");
        }
        assert!(node(&mut value, &mut 6).is_none());
    }

    #[test]
    fn mutations_of_documents_are_mostly_documents_and_a_seed_repeats_them() {
        let run = |seed| {
            let mut random = SmallRng::seed_from_u64(seed);
            let mut documents = Vec::new();
            for _ in 0..200 {
                let mut input = br#"{"kind":"Pod","spec":{"containers":[{"name":"a"}]}}"#.to_vec();
                mutate(&mut input, Shape::Json, &["image"], br#"{"x":[1,2]}"#, &mut random);
                documents.push(input);
            }
            documents
        };
        let documents = run(1);
        let whole = documents
            .iter()
            .filter(|input| serde_json::from_slice::<Value>(input).is_ok())
            .count();
        assert!(whole > 100, "{whole}");
        assert_eq!(documents, run(1));
        assert_ne!(documents, run(2));
    }
}
