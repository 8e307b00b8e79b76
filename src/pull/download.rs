//! One file from one address: ranges, tries, and the digest at the end.
//!
//! The first range goes alone, since its answer says whether the server knows ranges; then several go side by side. All
//! of them write into one [`Part`], on one thread.

use super::Report;
use super::client::{Ask, Client, Trouble};
use super::digest::Digest;
use super::name::shown;
use super::part::Part;
use super::plan::Item;
use anyhow::{Result, anyhow, bail};
use reqwest::header::{CONTENT_RANGE, ETAG, HeaderMap, IF_RANGE, RANGE};
use reqwest::{Response, StatusCode};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::ops::Range;
use std::pin::Pin;
use std::task::Poll;

const MOST_RESTARTS: usize = 3;
const PROGRESS: u64 = 64 << 10; // what a try must bring for the count of tries to begin again

/// Fills a part until it is the whole file, and has the right digest.
///
/// # Errors
/// What no try could mend. What has arrived stays, unless it is wrong.
pub(super) async fn download(client: &Client, item: &Item, part: Part, report: &dyn Report) -> Result<Part> {
    report.begin(&item.name, item.size, part.done());
    let transfer =
        Transfer { client, item, report, part: RefCell::new(part), knows_ranges: Cell::new(false) };
    let whole = transfer.whole().await;
    report.end();
    let mut part = transfer.part.into_inner();
    if whole.is_err() {
        // The first error is the one to tell; without the file the next pull begins again.
        let _ = part.save();
    }
    whole.map(|()| part)
}

struct Transfer<'a> {
    client: &'a Client,
    item: &'a Item,
    report: &'a dyn Report,
    part: RefCell<Part>,
    knows_ranges: Cell<bool>,
}

impl Transfer<'_> {
    /// All bytes, with the right digest; once more from the beginning if that is another.
    async fn whole(&self) -> Result<()> {
        for is_last in [false, true] {
            self.bytes().await?;
            let found = self.part.borrow_mut().digest(self.client.stop())?;
            let Some(wanted) = self.item.digest.as_ref().filter(|&wanted| *wanted != found) else {
                return Ok(());
            };
            self.mend(wanted, &found, is_last)?;
        }
        Ok(())
    }

    /// Throws away what has the wrong digest.
    fn mend(&self, wanted: &Digest, found: &Digest, is_last: bool) -> Result<()> {
        let name = &self.item.name;
        let what = format!("{name}: expected {wanted}, found {found}");
        self.part.borrow_mut().restart()?;
        if is_last {
            bail!("{what}; twice, nothing is kept");
        }
        self.report.say(&format!("{what}; again from the beginning"));
        Ok(())
    }

    async fn bytes(&self) -> Result<()> {
        let mut restarts = 0;
        loop {
            match self.pass().await {
                Ok(()) => return Ok(()),
                Err(Trouble::Stale(why)) => {
                    restarts += 1;
                    if restarts > MOST_RESTARTS {
                        bail!("{}: {why}, {restarts} times", self.item.name);
                    }
                    self.report.say(&format!("{}: {why}; again from the beginning", self.item.name));
                    self.part.borrow_mut().restart()?;
                }
                Err(trouble) => return Err(self.explain(trouble)),
            }
        }
    }

    fn explain(&self, trouble: Trouble) -> anyhow::Error {
        let address = shown(&self.item.url);
        match trouble {
            Trouble::Final(error) => error,
            Trouble::Passing { why, .. } | Trouble::Stale(why) => anyhow!("{address}: {why}"),
            Trouble::Missing => anyhow!("{address}: the server has no such file (404)"),
            Trouble::Denied { status, .. } => {
                anyhow!("{address}: the server refuses it ({})", status.as_u16())
            }
        }
    }

    /// What is missing: its first range, then the others side by side.
    async fn pass(&self) -> Result<(), Trouble> {
        let limits = self.client.limits;
        let in_ranges = |size: Option<u64>| size.is_none_or(|size| size > limits.parallel_from);
        let longest = if in_ranges(self.item.size) { limits.range } else { u64::MAX };
        let first = self.part.borrow().missing(longest).into_iter().next();
        let Some(first) = first else { return Ok(()) };
        self.range(first, true).await?;
        let size = self.part.borrow().size();
        let is_parallel = self.knows_ranges.get() && in_ranges(size);
        let longest = if is_parallel { limits.range } else { u64::MAX };
        let rest = RefCell::new(VecDeque::from(self.part.borrow().missing(longest)));
        let jobs = if is_parallel { limits.jobs.max(1) } else { 1 };
        let work = || async {
            while let Some(range) = { rest.borrow_mut().pop_front() } {
                self.range(range, false).await?;
            }
            Ok(())
        };
        all((0..jobs).map(|_| Box::pin(work()) as Running<'_>).collect()).await
    }

    /// A range, tried again as long as that may help.
    async fn range(&self, range: Range<u64>, is_first: bool) -> Result<(), Trouble> {
        let (mut failures, mut best) = (0, 0);
        loop {
            let missing = self.part.borrow().missing_in(&range);
            let Some(missing) = missing else { return Ok(()) };
            match self.attempt(missing, is_first).await {
                Ok(()) => {}
                Err(Trouble::Passing { why, after }) => {
                    let done = self.part.borrow().done_in(&range);
                    if done > best + PROGRESS {
                        (failures, best) = (0, done);
                    }
                    failures += 1;
                    if failures >= self.client.limits.tries {
                        let address = shown(&self.item.url);
                        return Err(anyhow!(
                            "{address}: {why}; tried {failures} times. What has arrived is kept, the same command \
                             goes on"
                        )
                        .into());
                    }
                    self.report.say(&format!("{}: {why}; trying again", self.item.name));
                    self.client.rest_after(failures, after).await?;
                }
                Err(trouble) => return Err(trouble),
            }
        }
    }

    /// One request for a range, written as it arrives.
    async fn attempt(&self, wanted: Range<u64>, is_first: bool) -> Result<(), Trouble> {
        let last = if wanted.end == u64::MAX { String::new() } else { (wanted.end - 1).to_string() };
        let mut ask = Ask::get(&self.item.url).with(RANGE, &format!("bytes={}-{last}", wanted.start));
        // A weak etag promises too little for a range.
        let etag = self.part.borrow().etag().filter(|etag| etag.starts_with('"')).map(str::to_owned);
        if let Some(etag) = etag.as_deref() {
            ask = ask.with(IF_RANGE, etag);
        }
        let response = self.client.once(&ask).await?;
        let end = match response.status() {
            StatusCode::PARTIAL_CONTENT => self.begin_range(response.headers(), &wanted, etag.as_deref())?,
            StatusCode::RANGE_NOT_SATISFIABLE => return self.beyond_the_end(response.headers()),
            _ if is_first => {
                self.knows_ranges.set(false);
                self.part.borrow_mut().restart()?;
                return self.receive(response, 0, None).await;
            }
            _ => return Err(Trouble::Stale("the server no longer sends ranges of this version".to_owned())),
        };
        self.receive(response, wanted.start, Some(end)).await
    }

    /// Checks what the server says it sends; the end of it.
    fn begin_range(
        &self,
        headers: &HeaderMap,
        wanted: &Range<u64>,
        known: Option<&str>,
    ) -> Result<u64, Trouble> {
        let text = headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let sent =
            content_range(text).filter(|(sent, _)| sent.start == wanted.start && sent.end <= wanted.end);
        let Some((sent, total)) = sent else {
            let end = wanted.end.saturating_sub(1);
            return Err(Trouble::passing(format!("asked for bytes {}-{end}, got '{text}'", wanted.start)));
        };
        self.ensure_size(total)?;
        if total.or(self.part.borrow().size()).is_none() {
            return Err(
                anyhow!("{}: the server does not say how long the file is", shown(&self.item.url)).into()
            );
        }
        let etag = headers.get(ETAG).and_then(|value| value.to_str().ok());
        if known.zip(etag).is_some_and(|(known, etag)| known != etag) {
            return Err(Trouble::Stale("the file has changed on the server".to_owned()));
        }
        self.knows_ranges.set(true);
        self.part.borrow_mut().learn(total, etag);
        Ok(sent.end)
    }

    /// Refuses a size that is not the one that was promised.
    fn ensure_size(&self, found: Option<u64>) -> Result<(), Trouble> {
        let promised = self.item.size.or(self.part.borrow().size());
        match promised.zip(found) {
            Some((promised, found)) if promised != found => Err(anyhow!(
                "{}: {promised} bytes were promised, the server has {found}; the repository may have changed, try again",
                shown(&self.item.url)
            )
            .into()),
            _ => Ok(()),
        }
    }

    /// 416: an empty file, or another than was promised.
    fn beyond_the_end(&self, headers: &HeaderMap) -> Result<(), Trouble> {
        let text = headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
        let total = text.and_then(|text| text.strip_prefix("bytes */")?.parse().ok());
        self.ensure_size(total)?;
        match total {
            Some(0) => {
                self.part.borrow_mut().learn(total, None);
                Ok(())
            }
            _ => Err(Trouble::Stale("the server has no such range".to_owned())),
        }
    }

    /// Writes an answer's body from `at` on, up to `end` where that is known.
    async fn receive(&self, mut response: Response, mut at: u64, end: Option<u64>) -> Result<(), Trouble> {
        if end.is_none() {
            self.ensure_size(response.content_length())?;
            let etag = response.headers().get(ETAG).and_then(|value| value.to_str().ok()).map(str::to_owned);
            self.part.borrow_mut().learn(response.content_length(), etag.as_deref());
        }
        let end = end.or(self.part.borrow().size());
        while let Some(chunk) = self.client.wait(response.chunk()).await? {
            let room = end.map_or(u64::MAX, |end| end - at);
            if chunk.len() as u64 > room {
                return Err(anyhow!("{}: more bytes than promised", shown(&self.item.url)).into());
            }
            self.part.borrow_mut().write(at, &chunk)?;
            at += chunk.len() as u64;
            let part = self.part.borrow();
            self.report.at(part.done(), part.size());
        }
        match end {
            Some(end) if at < end => {
                Err(Trouble::passing(format!("the connection ended {} bytes early", end - at)))
            }
            Some(_) => Ok(()),
            None => {
                self.part.borrow_mut().learn(Some(at), None);
                Ok(())
            }
        }
    }
}

/// `bytes 0-9/100`: a range, and the size of the whole unless that is `*`.
fn content_range(text: &str) -> Option<(Range<u64>, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, last) = range.split_once('-')?;
    let (start, last): (u64, u64) = (start.parse().ok()?, last.parse().ok()?);
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    let is_sound = start <= last && last < total.unwrap_or(u64::MAX);
    is_sound.then(|| (start..last + 1, total))
}

type Running<'a> = Pin<Box<dyn Future<Output = Result<(), Trouble>> + 'a>>;

/// Runs futures side by side until all are done or one fails.
async fn all(mut running: Vec<Running<'_>>) -> Result<(), Trouble> {
    poll_fn(|context| {
        let mut i = 0;
        while i < running.len() {
            match running[i].as_mut().poll(context) {
                Poll::Ready(Ok(())) => drop(running.swap_remove(i)),
                Poll::Ready(error) => return Poll::Ready(error),
                Poll::Pending => i += 1,
            }
        }
        if running.is_empty() { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_as_servers_write_them() {
        for (text, range) in [
            ("bytes 0-9/100", Some((0..10, Some(100)))),
            ("bytes 90-99/100", Some((90..100, Some(100)))),
            ("bytes 5-5/*", Some((5..6, None))),
            ("bytes 90-100/100", None),
            ("bytes 9-0/100", None),
            ("bytes 0-18446744073709551615/*", None),
            ("items 0-9/100", None),
            ("", None),
        ] {
            assert_eq!(content_range(text), range, "{text}");
        }
    }
}
