//! Whether a greedy lexer cuts a text into the words that its grammar means.
//!
//! Greed errs where a word that is whole could go on, or be the beginning of another word, with a character that may also
//! stand behind it. Words are taken as automata whose states are the places in them (Glushkov's), repetitions as unbounded,
//! and every word as possible everywhere: this may see a danger where there is none, and misses none.

use super::characters::Characters;
use super::gbnf::{Node, emptiness};
use std::collections::HashSet;

/// Larger words, more pairs of places, or rules that take more rounds count as unclear.
const MOST_PLACES: usize = 4000;
const MOST_RULES: usize = 100_000;
const MOST_STEPS: usize = 300_000;

/// A part of a rule in terms of words and rules.
#[derive(Clone, Debug)]
pub(super) enum Term {
    Word(usize),
    Rule(usize),
    Sequence(Vec<Term>),
    Choice(Vec<Term>),
    Repeat(Box<Term>, u32, Option<u32>),
}

/// Whether `words` are cut as the rules mean, which are `parts` in terms of words and of each other.
pub(super) fn is_clear(rules: &[Node], words: &[Node], parts: &[(usize, Term)]) -> bool {
    let mut places = Places::default();
    let ends: Option<Vec<Ends>> = words.iter().map(|word| places.of(word, rules)).collect();
    let Some(ends) = ends else { return false };
    let Some(behind) = Behind::new(&places, &ends, rules.len(), parts) else { return false };
    let behind = behind.words;
    let mut ends_word: Vec<Option<usize>> = vec![None; places.sets.len()];
    for (word, Ends { last, .. }) in ends.iter().enumerate() {
        last.iter().for_each(|&place| ends_word[place] = Some(word));
    }
    // Pairs of places that one text leads to, each in a word of its own or in the same.
    let mut pairs = Pairs { places: &places, seen: HashSet::new(), open: vec![], steps: 0 };
    let firsts: Vec<usize> = ends.iter().flat_map(|word| word.first.iter().copied()).collect();
    let mut is_small = pairs.meet(&firsts, &firsts);
    while let Some((one, two)) = pairs.open.pop().filter(|_| is_small) {
        let goes_on =
            |word: usize| places.next[two].iter().any(|&next| places.sets[next].meets(&behind[word]));
        if ends_word[one].is_some_and(goes_on) {
            return false;
        }
        is_small = pairs.meet(&places.next[one], &places.next[two]);
    }
    is_small
}

/// Pairs of places to which one text leads.
struct Pairs<'p> {
    places: &'p Places,
    seen: HashSet<(usize, usize)>,
    open: Vec<(usize, usize)>,
    steps: usize,
}

impl Pairs<'_> {
    /// Adds those that one character leads to; `false` where there are too many.
    fn meet(&mut self, ones: &[usize], twos: &[usize]) -> bool {
        self.steps += ones.len() * twos.len();
        if self.steps > MOST_STEPS {
            return false;
        }
        for &one in ones {
            for &two in twos {
                let sets = &self.places.sets;
                if sets[one].meets(&sets[two]) && self.seen.insert((one, two)) {
                    self.open.push((one, two));
                }
            }
        }
        true
    }
}

/// Places of characters in words.
#[derive(Default)]
struct Places {
    sets: Vec<Characters>,
    next: Vec<Vec<usize>>,
    steps: usize, // that it took to find them
}

/// Where a part can begin and end.
#[derive(Clone, Default)]
struct Ends {
    first: Vec<usize>,
    last: Vec<usize>,
}

impl Places {
    fn place(&mut self, set: Characters) -> Option<Ends> {
        self.sets.push(set);
        self.next.push(vec![]);
        let place = vec![self.sets.len() - 1];
        (self.sets.len() <= MOST_PLACES).then(|| Ends { first: place.clone(), last: place })
    }

    fn of(&mut self, node: &Node, rules: &[Node]) -> Option<Ends> {
        match node {
            Node::Text(text) => {
                let mut all = Ends::default();
                let mut is_empty = true;
                for c in text.chars() {
                    let one = self.place(Characters::one(c))?;
                    all = self.follow(all, one, is_empty, false)?;
                    is_empty = false;
                }
                Some(all)
            }
            Node::Class(set) => self.place(set.clone()),
            Node::Rule(rule) => self.of(&rules[*rule], rules),
            Node::Sequence(items) => {
                let mut all = Ends::default();
                let mut is_empty = true;
                for item in items {
                    let can_be_empty = emptiness(item, rules).0;
                    let one = self.of(item, rules)?;
                    all = self.follow(all, one, is_empty, can_be_empty)?;
                    is_empty &= can_be_empty;
                }
                Some(all)
            }
            Node::Choice(choices) => {
                let mut all = Ends::default();
                for choice in choices {
                    let one = self.of(choice, rules)?;
                    all.first.extend(one.first);
                    all.last.extend(one.last);
                }
                Some(all)
            }
            Node::Repeat(_, _, Some(0)) => Some(Ends::default()),
            Node::Repeat(item, _, most) => {
                let one = self.of(item, rules)?;
                if *most != Some(1) {
                    self.join(&one.last, &one.first)?;
                }
                Some(one)
            }
        }
    }

    fn join(&mut self, from: &[usize], to: &[usize]) -> Option<()> {
        self.steps += from.len() * (to.len() + 1);
        if self.steps > MOST_STEPS {
            return None;
        }
        from.iter().for_each(|&place| self.next[place].extend_from_slice(to));
        Some(())
    }

    fn follow(
        &mut self,
        before: Ends,
        after: Ends,
        before_can_be_empty: bool,
        after_can_be_empty: bool,
    ) -> Option<Ends> {
        self.join(&before.last, &after.first)?;
        let Ends { mut first, last: mut before_last } = before;
        if before_can_be_empty {
            first.extend(&after.first);
        }
        let mut last = after.last;
        if after_can_be_empty {
            last.append(&mut before_last);
        }
        Some(Ends { first, last })
    }
}

/// Which characters may stand behind words, and begin and follow rules.
struct Behind {
    can_be_empty: Vec<bool>,
    first: Vec<Characters>,
    rules: Vec<Characters>,
    begin_words: Vec<Characters>,
    words: Vec<Characters>,
    grows: bool,
}

impl Behind {
    fn new(places: &Places, ends: &[Ends], rules: usize, parts: &[(usize, Term)]) -> Option<Self> {
        let begin = |word: &Ends| {
            let mut all = Characters::default();
            word.first.iter().for_each(|&place| _ = all.add(&places.sets[place]));
            all
        };
        let mut new = Self {
            can_be_empty: vec![false; rules],
            first: vec![Characters::default(); rules],
            rules: vec![Characters::default(); rules],
            begin_words: ends.iter().map(begin).collect(),
            words: vec![Characters::default(); ends.len()],
            grows: true,
        };
        let mut rounds = 0;
        let mut is_small = || {
            rounds += 1;
            rounds * parts.len() <= MOST_RULES
        };
        while std::mem::take(&mut new.grows) {
            if !is_small() {
                return None;
            }
            for (rule, part) in parts {
                let (can_be_empty, first) = new.begins(part);
                new.grows |= can_be_empty != new.can_be_empty[*rule];
                new.can_be_empty[*rule] = can_be_empty;
                new.grows |= new.first[*rule].add(&first);
            }
        }
        new.grows = true;
        while std::mem::take(&mut new.grows) {
            if !is_small() {
                return None;
            }
            for (rule, part) in parts {
                let behind = new.rules[*rule].clone();
                new.spread(part, &behind);
            }
        }
        Some(new)
    }

    /// Whether a part can be empty, and how it can begin, as far as this is known.
    fn begins(&self, part: &Term) -> (bool, Characters) {
        match part {
            Term::Word(word) => (false, self.begin_words[*word].clone()),
            Term::Rule(rule) => (self.can_be_empty[*rule], self.first[*rule].clone()),
            Term::Sequence(parts) => {
                let mut first = Characters::default();
                for part in parts {
                    let (can_be_empty, begins) = self.begins(part);
                    first.add(&begins);
                    if !can_be_empty {
                        return (false, first);
                    }
                }
                (true, first)
            }
            Term::Choice(parts) => {
                let mut all = (false, Characters::default());
                for part in parts {
                    let (can_be_empty, begins) = self.begins(part);
                    all.0 |= can_be_empty;
                    all.1.add(&begins);
                }
                all
            }
            Term::Repeat(part, least, _) => {
                let (can_be_empty, begins) = self.begins(part);
                (can_be_empty || *least == 0, begins)
            }
        }
    }

    /// Tells every word and rule in `part` what may stand behind it, where `behind` stands behind the whole.
    fn spread(&mut self, part: &Term, behind: &Characters) {
        match part {
            Term::Word(word) => self.grows |= self.words[*word].add(behind),
            Term::Rule(rule) => self.grows |= self.rules[*rule].add(behind),
            Term::Sequence(parts) => {
                let mut behind = behind.clone();
                for part in parts.iter().rev() {
                    self.spread(part, &behind);
                    let (can_be_empty, begins) = self.begins(part);
                    if !can_be_empty {
                        behind = Characters::default();
                    }
                    behind.add(&begins);
                }
            }
            Term::Choice(parts) => parts.iter().for_each(|part| self.spread(part, behind)),
            Term::Repeat(part, _, most) => {
                let mut behind = behind.clone();
                if *most != Some(1) {
                    behind.add(&self.begins(part).1);
                }
                self.spread(part, &behind);
            }
        }
    }
}
