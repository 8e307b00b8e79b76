//! The named mixes of llama.cpp, rule by rule, so that a name gives the formats that `llama-quantize` gives.
//!
//! Source: `src/llama-quant.cpp` of llama.cpp (2026-10), functions llama_ftype_get_default_type and
//! llama_tensor_get_type_impl. Its oddities (experts counted as the literal 8) are kept. With `--calibrate` importance is
//! measured before formats are chosen, so rules ask for it as they do with a file of it.

use super::question::{Choice, Facts, Question, by_name, fits, is_quantizable, nearest, plain};
use super::role::Role;
use moewe_engine::gguf::TensorName;

/// A named mix.
#[derive(Debug)]
pub struct Mix {
    /// llama.cpp's name.
    pub name: &'static str,
    /// Other names of it.
    pub aliases: &'static [&'static str],
    /// llama.cpp's number (enum llama_ftype).
    pub file_type: u32,
    /// The format of all that no rule names.
    pub base: &'static str,
    rule: fn(&Place) -> Option<&'static str>,
}

/// One tensor in the eyes of a rule.
struct Place<'a> {
    role: Role,
    index: usize,  // of this kind of tensor, counted over the layers
    layers: usize, // how many there are
    facts: &'a Facts,
}

const fn mix(
    name: &'static str,
    file_type: u32,
    base: &'static str,
    rule: fn(&Place) -> Option<&'static str>,
) -> Mix {
    Mix { name, aliases: &[], file_type, base, rule }
}

const fn alias(mix: Mix, aliases: &'static [&'static str]) -> Mix {
    Mix { aliases, ..mix }
}

/// All of them, from few bits to many.
pub static MIXES: &[Mix] = &[
    mix("IQ1_S", 24, "IQ1_S", |place| place.tiny("Q2_K", "IQ2_XXS")),
    mix("IQ1_M", 31, "IQ1_M", |place| place.tiny("Q2_K", "IQ2_XXS")),
    mix("IQ2_XXS", 19, "IQ2_XXS", |place| place.tiny("Q2_K", "IQ2_XXS").filter(|_| !place.is_plain_output())),
    mix("IQ2_XS", 20, "IQ2_XS", |place| place.tiny("Q2_K", "IQ2_XS").filter(|_| !place.is_plain_output())),
    mix("IQ2_S", 28, "IQ2_XS", |place| place.tiny("IQ3_S", "IQ3_S")),
    mix("IQ2_M", 29, "IQ2_S", |place| place.tiny("IQ3_S", "IQ3_S")),
    mix("Q2_K_S", 21, "Q2_K", q2_k_s),
    mix("Q2_K", 10, "Q2_K", q2_k),
    mix("IQ3_XXS", 23, "IQ3_XXS", iq3_xxs),
    mix("IQ3_XS", 22, "IQ3_S", iq3_xs),
    mix("Q3_K_S", 11, "Q3_K", |place| place.eight_experts("Q5_K")),
    mix("IQ3_S", 26, "IQ3_S", iq3_s),
    mix("IQ3_M", 27, "IQ3_S", iq3_m),
    alias(mix("Q3_K_M", 12, "Q3_K", q3_k_m), &["Q3_K"]),
    mix("Q3_K_L", 13, "Q3_K", q3_k_l),
    mix("IQ4_XS", 30, "IQ4_XS", iq4),
    mix("IQ4_NL", 25, "IQ4_NL", iq4),
    mix("Q4_0", 2, "Q4_0", |place| place.with_offsets("Q4_1")),
    mix("Q4_K_S", 14, "Q4_K", q4_k_s),
    alias(mix("Q4_K_M", 15, "Q4_K", q4_k_m), &["Q4_K"]),
    mix("Q4_1", 3, "Q4_1", |place| place.eight_experts_keys()),
    mix("Q5_0", 8, "Q5_0", |place| place.with_offsets("Q5_1")),
    mix("Q5_K_S", 16, "Q5_K", |place| place.eight_experts_keys()),
    alias(mix("Q5_K_M", 17, "Q5_K", q5_k_m), &["Q5_K"]),
    mix("Q5_1", 9, "Q5_1", |place| place.eight_experts_keys()),
    mix("Q6_K", 18, "Q6_K", |place| place.eight_experts_keys()),
    mix("Q8_0", 7, "Q8_0", |place| place.eight_experts_keys()),
    mix("TQ1_0", 36, "TQ1_0", |place| place.eight_experts_keys()),
    mix("TQ2_0", 37, "TQ2_0", |place| place.eight_experts_keys()),
    alias(mix("MXFP4_MOE", 38, "Q8_0", |_| None), &["MXFP4"]),
];

impl Mix {
    /// Whether a person means this one.
    pub fn is_called(&self, name: &str) -> bool {
        let same = |own: &str| own.eq_ignore_ascii_case(name);
        same(self.name) || self.aliases.iter().any(|alias| same(alias))
    }

    pub(super) fn choose(&self, questions: &[Question], facts: &Facts) -> Vec<Choice> {
        let counts = Counts::of(questions, facts);
        questions.iter().map(|question| self.choice(*question, &counts, facts)).collect()
    }

    fn choice(&self, question: Question, counts: &Counts, facts: &Facts) -> Choice {
        if !is_quantizable(question) {
            return plain(by_name("F32"));
        }
        let base = by_name(self.base);
        let aim = match question.role() {
            _ if self.name == "MXFP4_MOE" => by_name(if question.shape.len() > 2 { "MXFP4" } else { "Q8_0" }),
            Role::Head => by_name(self.head(question)),
            Role::Embedding => by_name(self.embedding()),
            role => {
                let (index, layers) = counts.place(question, role);
                (self.rule)(&Place { role, index, layers, facts }).map_or(base, by_name)
            }
        };
        nearest(question, aim)
    }

    fn head(&self, question: Question) -> &'static str {
        if !fits(question, by_name(self.base)) {
            return "Q8_0";
        }
        match self.name {
            "IQ1_S" | "IQ1_M" | "IQ2_XXS" | "IQ2_XS" | "IQ2_S" | "IQ2_M" | "IQ3_XXS" => "Q5_K",
            "Q8_0" => "Q8_0",
            _ => "Q6_K",
        }
    }

    fn embedding(&self) -> &'static str {
        match self.name {
            "IQ1_S" | "IQ1_M" | "IQ2_XXS" | "IQ2_XS" => "Q2_K",
            "IQ2_S" | "IQ2_M" | "IQ3_XXS" => "IQ3_S",
            "TQ1_0" | "TQ2_0" => "Q4_K",
            _ => self.base,
        }
    }
}

/// The layers that have values, in their order: rules count these, not all layers.
struct Counts {
    values: Vec<usize>, // layers with a matrix of values, one entry per matrix
    layers: usize,
}

impl Counts {
    fn of(questions: &[Question], facts: &Facts) -> Self {
        let is_value = |question: &&Question| question.role() == Role::Value && is_quantizable(**question);
        let mut values: Vec<usize> =
            questions.iter().filter(is_value).filter_map(|q| TensorName::of(q.name).layer).collect();
        values.sort_unstable();
        Self { values, layers: facts.block_count }
    }

    fn place(&self, question: Question, role: Role) -> (usize, usize) {
        let layer = TensorName::of(question.name).layer.unwrap_or(0);
        if role != Role::Value {
            return (layer, self.layers);
        }
        (self.values.iter().filter(|&&other| other < layer).count(), self.values.len())
    }
}

impl Place<'_> {
    /// llama.cpp's use_more_bits: the first and the last eighth, and every third between them.
    fn is_favoured(&self) -> bool {
        let (i, n) = (self.index, self.layers);
        i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2
    }

    fn is_first(&self, share: usize) -> bool {
        self.index < self.layers / share
    }

    fn has_eight_experts(&self) -> bool {
        self.facts.expert_count == 8
    }

    fn is_plain_output(&self) -> bool {
        self.role == Role::AttentionOutput && !self.has_eight_experts()
    }

    /// With eight experts keys and values are cheap and get Q8_0.
    fn eight_experts_keys(&self) -> Option<&'static str> {
        (self.has_eight_experts() && matches!(self.role, Role::Key | Role::Value)).then_some("Q8_0")
    }

    /// The same, and `output` for the projection behind attention.
    fn eight_experts(&self, output: &'static str) -> Option<&'static str> {
        let is_output = self.has_eight_experts() && self.role == Role::AttentionOutput;
        self.eight_experts_keys().or(is_output.then_some(output))
    }

    /// Known inputs of the first layers can be large enough to need `better` than a scale alone.
    fn with_offsets(&self, better: &'static str) -> Option<&'static str> {
        let needs = self.facts.has_importance && self.role == Role::Down && self.is_first(8);
        self.eight_experts_keys().or(needs.then_some(better))
    }

    /// The rules below three bits.
    fn tiny(&self, better: &'static str, output: &'static str) -> Option<&'static str> {
        let many = self.facts.group >= 4 || self.facts.expert_count >= 4;
        match self.role {
            Role::Value => Some(if many { "Q4_K" } else { better }),
            Role::Key if self.has_eight_experts() => Some("Q4_K"),
            Role::Down if self.is_first(8) => Some(better),
            Role::AttentionOutput => Some(if self.has_eight_experts() { "Q5_K" } else { output }),
            _ => None,
        }
    }
}

fn q2_k(place: &Place) -> Option<&'static str> {
    place.eight_experts("Q5_K").or(match place.role {
        Role::Value => Some(if place.facts.group >= 4 { "Q4_K" } else { "Q3_K" }),
        Role::Down | Role::AttentionOutput => Some("Q3_K"),
        _ => None,
    })
}

fn q2_k_s(place: &Place) -> Option<&'static str> {
    place.eight_experts_keys().or(match place.role {
        Role::Value if place.facts.group >= 4 => Some("Q4_K"),
        Role::Down if place.is_first(8) => Some("Q4_K"),
        _ => None,
    })
}

fn iq3_xxs(place: &Place) -> Option<&'static str> {
    place.eight_experts("Q5_K").or(match place.role {
        Role::Value if place.facts.group >= 4 => Some("Q4_K"),
        Role::Value if !place.facts.has_importance => Some("IQ3_S"),
        Role::Key | Role::Query => Some("IQ2_S"),
        Role::Down if !place.facts.has_importance => Some(if place.is_first(8) { "Q4_K" } else { "Q3_K" }),
        Role::AttentionOutput => Some("IQ3_S"),
        _ => None,
    })
}

fn iq3_xs(place: &Place) -> Option<&'static str> {
    let is_middle = place.index >= place.layers / 8 && place.index < 7 * place.layers / 8;
    place.eight_experts("Q5_K").or(match place.role {
        Role::Value if place.facts.group >= 4 => Some("Q4_K"),
        Role::Key | Role::Query => Some("IQ3_XXS"),
        Role::Up if is_middle => Some("IQ3_XXS"),
        _ => None,
    })
}

fn iq3_s(place: &Place) -> Option<&'static str> {
    let values = (place.role == Role::Value && place.facts.group >= 4).then_some("Q4_K");
    place.eight_experts("Q5_K").or(values)
}

fn iq3_m(place: &Place) -> Option<&'static str> {
    place.eight_experts("Q5_K").or(match place.role {
        Role::Value | Role::AttentionOutput => Some("Q4_K"),
        Role::Down if place.is_first(8) => Some("Q4_K"),
        Role::Down if place.has_eight_experts() && place.is_favoured() => Some("Q4_K"),
        _ => None,
    })
}

fn q3_k_m(place: &Place) -> Option<&'static str> {
    place.eight_experts("Q5_K").or(match place.role {
        Role::Value => Some(if place.index < 2 { "Q5_K" } else { "Q4_K" }),
        Role::Down => Some(if place.is_first(16) { "Q5_K" } else { "Q4_K" }),
        Role::AttentionOutput => Some("Q4_K"),
        _ => None,
    })
}

fn q3_k_l(place: &Place) -> Option<&'static str> {
    place.eight_experts_keys().or(match place.role {
        Role::Value | Role::Down => Some("Q5_K"),
        Role::AttentionOutput if !place.has_eight_experts() => Some("Q5_K"),
        _ => None,
    })
}

fn iq4(place: &Place) -> Option<&'static str> {
    place.eight_experts("Q5_K").or(match place.role {
        Role::Value if place.facts.group >= 4 => Some("Q5_K"),
        Role::Down if place.is_first(8) && !place.facts.has_importance => Some("Q5_K"),
        _ => None,
    })
}

fn q4_k_s(place: &Place) -> Option<&'static str> {
    place.eight_experts("Q5_K").or(match place.role {
        Role::Value if place.index < 4 => Some("Q5_K"),
        Role::Down if place.is_first(8) => Some("Q5_K"),
        _ => None,
    })
}

fn q4_k_m(place: &Place) -> Option<&'static str> {
    let favoured = matches!(place.role, Role::Value | Role::Down) && place.is_favoured();
    place.eight_experts("Q5_K").or(favoured.then_some("Q6_K"))
}

fn q5_k_m(place: &Place) -> Option<&'static str> {
    let favoured = matches!(place.role, Role::Value | Role::Down) && place.is_favoured();
    place.eight_experts_keys().or(favoured.then_some("Q6_K"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use moewe_engine::quant::Format;

    /// Questions of a model with eight layers, as llama.cpp names its tensors.
    fn names(experts: bool) -> Vec<String> {
        let layer = |i: usize| {
            let stack = if experts { "_exps" } else { "" };
            ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate#", "ffn_up#", "ffn_down#"]
                .map(|name| format!("blk.{i}.{}.weight", name.replace('#', stack)))
        };
        let outer = ["token_embd.weight".to_owned(), "output.weight".to_owned()];
        (0..8).flat_map(layer).chain(outer).collect()
    }

    /// The formats that a mix gives, per tensor name with `N` for its layer, as `llama-quantize` prints them.
    fn formats(mix: &str, facts: Facts) -> Vec<(String, &'static str)> {
        let names = names(facts.expert_count > 0);
        let question = |name: &'static str| Question {
            name,
            shape: &[512, 256],
            stored: None,
            kept: None,
            is_original: false,
            is_head: name == "output.weight",
            matters: None,
        };
        let names: Vec<&'static str> = names.into_iter().map(|name| &*name.leak()).collect();
        let questions: Vec<Question> = names.iter().map(|name| question(name)).collect();
        let mix = MIXES.iter().find(|known| known.is_called(mix)).expect(mix);
        let choices = mix.choose(&questions, &facts);
        names.iter().zip(choices).map(|(name, choice)| (name.to_string(), choice.format.name)).collect()
    }

    fn of(formats: &[(String, &'static str)], name: &str) -> String {
        let own = formats.iter().filter(|(known, _)| known.contains(name));
        own.map(|(_, format)| *format).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn mixes_give_what_llama_quantize_gives() {
        let dense = Facts { block_count: 8, group: 1, ..Facts::default() };
        let formats_of = |mix| formats(mix, dense);
        let q4 = formats_of("Q4_K_M");
        assert_eq!(of(&q4, "attn_v"), "Q6_K Q4_K Q4_K Q6_K Q4_K Q4_K Q6_K Q6_K");
        assert_eq!(of(&q4, "ffn_down"), "Q6_K Q4_K Q4_K Q6_K Q4_K Q4_K Q6_K Q6_K");
        assert_eq!(of(&q4, "output.weight").split(' ').next_back(), Some("Q6_K"));
        let q3 = formats_of("Q3_K_M");
        assert_eq!(of(&q3, "attn_v"), "Q5_K Q5_K Q4_K Q4_K Q4_K Q4_K Q4_K Q4_K");
        let q2 = formats_of("q2_k");
        assert_eq!(of(&q2, "blk.0.ffn_down"), "Q3_K");
        assert_eq!(of(&q2, "blk.0.attn_q"), "Q2_K");
        let down = |mix, has_importance| of(&formats(mix, Facts { has_importance, ..dense }), "0.ffn_down");
        assert_eq!([down("IQ3_XXS", false), down("IQ3_XXS", true)], ["Q4_K", "IQ3_XXS"]);
        assert_eq!([down("IQ4_XS", false), down("IQ4_XS", true)], ["Q5_K", "IQ4_XS"]);
        assert_eq!([down("Q4_0", false), down("Q4_0", true)], ["Q4_0", "Q4_1"]);
    }

    #[test]
    fn eight_experts_are_special_and_four_are_not() {
        let facts = |expert_count| Facts { block_count: 8, expert_count, group: 2, ..Facts::default() };
        let eight = formats("Q4_K_M", facts(8));
        assert_eq!((of(&eight, "blk.1.attn_v"), of(&eight, "blk.1.attn_k")), ("Q8_0".into(), "Q8_0".into()));
        assert_eq!(of(&eight, "blk.1.attn_output"), "Q5_K");
        let four = formats("Q4_K_M", facts(4));
        assert_eq!(
            (of(&four, "blk.1.attn_v"), of(&four, "blk.1.attn_output")),
            ("Q4_K".into(), "Q4_K".into())
        );
    }

    #[test]
    fn every_mix_names_formats_that_are_written() {
        for mix in MIXES {
            assert!(
                Format::by_name(mix.base).is_some_and(|format| format.quantize.is_some()),
                "{}",
                mix.name
            );
            for (expert_count, has_importance) in [(0, false), (4, true), (8, false)] {
                formats(mix.name, Facts { block_count: 8, expert_count, group: 4, has_importance });
            }
        }
    }
}
