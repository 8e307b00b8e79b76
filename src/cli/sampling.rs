//! The flags that choose tokens, for `run`, for `chat` and for `/set` inside a chat.
//!
//! A flag that is not given leaves what the file recommends, or the engine's default.

use anyhow::{Context, Result, bail};
use clap::Args;
use moewe_engine::sampler::Sampling;

// No doc comment: see options.rs.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "Choosing tokens")]
pub(crate) struct SamplingOptions {
    /// Most tokens of an answer; -1 for no limit [default: until it ends or the context is full]
    #[arg(short = 'n', long, value_name = "N", allow_negative_numbers = true, value_parser = limit)]
    limit: Option<i64>,
    /// Temperature; 0 takes the likeliest token always [default: the file's, else 0.8]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    temp: Option<f32>,
    /// Keep the likeliest N tokens; 0 keeps all [default: the file's, else 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    top_k: Option<u32>,
    /// Keep the likeliest tokens that together have this probability [default: the file's, else 0.95]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Keep tokens with at least this part of the likeliest one's probability [default: the file's, else 0.05]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// Keep the most typical tokens that together have this probability [default: 1]
    #[arg(long, visible_alias = "typical-p", value_name = "P", allow_negative_numbers = true)]
    typical: Option<f32>,
    /// Make tokens that occurred less likely by this factor [default: the file's, else 1]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    repeat_penalty: Option<f32>,
    /// How many of the latest tokens the penalties look at; -1 for all [default: the file's, else all]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    repeat_last_n: Option<i64>,
    /// Lower the score of tokens that the answer contains [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    presence_penalty: Option<f32>,
    /// Lower the score of tokens by how often the answer contains them [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    frequency_penalty: Option<f32>,
    /// Add a number to the score of a token, as in 42=-1.5 or 42=-inf; may be repeated
    #[arg(long, value_name = "ID=X", value_parser = bias)]
    logit_bias: Vec<(u32, f32)>,
    /// The same seed gives the same text; -1 chooses one from the clock [default: -1]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = seed)]
    seed: Option<Seed>,
}

/// Where chance begins.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Seed {
    Clock,
    Number(u64),
}

impl SamplingOptions {
    /// Most tokens of an answer; `None` for no limit.
    pub(crate) fn limit(&self) -> Option<usize> {
        self.limit.and_then(|limit| usize::try_from(limit).ok())
    }

    /// Settings for a vocabulary of so many tokens.
    ///
    /// # Errors
    /// Biases of tokens that do not exist; they would do nothing.
    pub(crate) fn for_vocabulary(&self, recommended: Sampling, size: usize) -> Result<Sampling> {
        match self.logit_bias.iter().find(|(token, _)| *token as usize >= size) {
            Some((token, _)) => bail!("--logit-bias: token {token} is outside the vocabulary of {size}"),
            None => Ok(self.over(recommended)),
        }
    }

    /// `sampling` with the given flags in its place.
    pub(crate) fn over(&self, mut sampling: Sampling) -> Sampling {
        let replace = |field: &mut f32, given: Option<f32>| *field = given.unwrap_or(*field);
        replace(&mut sampling.temperature, self.temp);
        replace(&mut sampling.top_p, self.top_p);
        replace(&mut sampling.min_p, self.min_p);
        replace(&mut sampling.typical_p, self.typical);
        replace(&mut sampling.repetition_penalty, self.repeat_penalty);
        replace(&mut sampling.presence_penalty, self.presence_penalty);
        replace(&mut sampling.frequency_penalty, self.frequency_penalty);
        sampling.top_k = self.top_k.unwrap_or(sampling.top_k);
        if let Some(window) = self.repeat_last_n {
            sampling.repeat_window = usize::try_from(window).ok();
        }
        sampling.logit_bias.extend_from_slice(&self.logit_bias);
        match self.seed {
            Some(Seed::Number(seed)) => sampling.seed = Some(seed),
            Some(Seed::Clock) => sampling.seed = None,
            None => {}
        }
        sampling
    }
}

fn limit(text: &str) -> Result<i64> {
    let limit: i64 = text.parse().context("expected a whole number, or -1 for no limit")?;
    if limit < -1 { bail!("expected a whole number, or -1 for no limit") } else { Ok(limit) }
}

fn seed(text: &str) -> Result<Seed> {
    match text {
        "-1" => Ok(Seed::Clock),
        text => Ok(Seed::Number(text.parse().context("expected a whole number, or -1 for the clock's")?)),
    }
}

fn bias(text: &str) -> Result<(u32, f32)> {
    let (token, bias) = text.split_once('=').context("expected a token id, `=` and a number")?;
    Ok((
        token.trim().parse().context("the token is no id")?,
        bias.trim().parse().context("the bias is no number")?,
    ))
}

/// One line per setting, by the names of the flags.
pub(crate) fn describe(sampling: &Sampling, limit: Option<usize>, seed: u64) -> String {
    let window = sampling.repeat_window.map_or("-1".to_owned(), |window| window.to_string());
    let limit = limit.map_or("until the answer ends".to_owned(), |limit| limit.to_string());
    let mut lines = vec![
        format!("n                  {limit}"),
        format!("temp               {}", sampling.temperature),
        format!("top-k              {}", sampling.top_k),
        format!("top-p              {}", sampling.top_p),
        format!("min-p              {}", sampling.min_p),
        format!("typical            {}", sampling.typical_p),
        format!("repeat-penalty     {}", sampling.repetition_penalty),
        format!("repeat-last-n      {window}"),
        format!("presence-penalty   {}", sampling.presence_penalty),
        format!("frequency-penalty  {}", sampling.frequency_penalty),
        format!("seed               {seed}"),
    ];
    lines
        .extend(sampling.logit_bias.iter().map(|(token, bias)| format!("logit-bias         {token}={bias}")));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_given_flags_replace() {
        let file = Sampling { temperature: 0.3, repeat_window: Some(64), ..Sampling::default() };
        assert_eq!(SamplingOptions::default().over(file.clone()), file);
        let given = SamplingOptions {
            top_k: Some(7),
            repeat_last_n: Some(-1),
            logit_bias: vec![(3, f32::NEG_INFINITY)],
            seed: Some(Seed::Number(1)),
            ..Default::default()
        };
        let expected = Sampling {
            top_k: 7,
            repeat_window: None,
            logit_bias: vec![(3, f32::NEG_INFINITY)],
            seed: Some(1),
            ..file.clone()
        };
        assert_eq!(given.over(file), expected);
    }

    #[test]
    fn minus_one_is_no_limit_and_the_clock() {
        assert_eq!((limit("5").unwrap(), limit("-1").unwrap()), (5, -1));
        let of = |limit| SamplingOptions { limit: Some(limit), ..Default::default() }.limit();
        assert_eq!((of(0), of(-1)), (Some(0), None));
        assert_eq!((seed("7").unwrap(), seed("-1").unwrap()), (Seed::Number(7), Seed::Clock));
        assert!(limit("-2").is_err() && limit("x").is_err() && seed("-2").is_err());
        let clock = SamplingOptions { seed: Some(Seed::Clock), ..Default::default() };
        assert_eq!(clock.over(Sampling { seed: Some(3), ..Sampling::default() }).seed, None);
    }

    #[test]
    fn biases() {
        assert_eq!(bias("42=-1.5").unwrap(), (42, -1.5));
        assert_eq!(bias("1 = -inf").unwrap(), (1, f32::NEG_INFINITY));
        let biased = SamplingOptions { logit_bias: vec![(9, 1.0)], ..Default::default() };
        assert!(biased.for_vocabulary(Sampling::default(), 10).is_ok());
        assert!(biased.for_vocabulary(Sampling::default(), 9).is_err());
        for wrong in ["", "1", "=1", "a=1", "1=b", "-1=0"] {
            assert!(bias(wrong).is_err(), "{wrong}");
        }
    }
}
