//! Owns the symbol table: every string that scheduling compares (label keys and values, node names, taints, resource
//! names) is a small number here. Called by the parsers and the cluster state. It must never drop a symbol while the
//! scheduler lives, because symbols are held everywhere without a count.

use rustc_hash::FxHashMap;
use std::sync::Arc;

/// An interned string: equal symbols are equal strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sym(pub u32);

/// The symbol table. Grows with the number of distinct strings seen (about 60 bytes and the text for each).
#[derive(Debug, Default)]
pub struct Symbols {
    by_text: FxHashMap<Arc<str>, Sym>,
    texts: Vec<Arc<str>>,
}

impl Symbols {
    /// The symbol of a string, made if it is new.
    pub fn intern(&mut self, text: &str) -> Sym {
        if let Some(sym) = self.by_text.get(text) {
            return *sym;
        }
        let sym = Sym(u32::try_from(self.texts.len()).expect("fewer than 4 billion distinct strings"));
        let shared: Arc<str> = Arc::from(text);
        self.texts.push(shared.clone());
        self.by_text.insert(shared, sym);
        sym
    }

    /// The symbol of a string, if it was ever seen.
    pub fn lookup(&self, text: &str) -> Option<Sym> {
        self.by_text.get(text).copied()
    }

    /// Number of distinct strings seen: when this has grown far beyond what the cluster holds, make the scheduler anew from
    /// the store.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Whether no string was seen.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// The text of a symbol.
    pub fn text(&self, sym: Sym) -> &Arc<str> {
        &self.texts[sym.0 as usize]
    }
}
