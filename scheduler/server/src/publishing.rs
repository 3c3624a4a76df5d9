//! The task between the machine's route changes and the Envoys: translates, publishes, and tells the machine what was
//! applied. Translation, hashing and encoding happen here, never on the driver's thread.

use std::time::Duration;

use domain::Time;
use runtime::Stop;
use scheduler_core::{Event, RouteChange};
use tokio::sync::mpsc;
use tracing::{error, info, warn};
use xds::{Ads, Feedback};

use crate::config::Config;
use crate::driver::now;
use crate::envoy::{News, ON_DEMAND, Publication, Publisher, tailor};
use crate::grpc::agents::Never;
use crate::handle::Scheduler;

/// How long to sleep when no cluster waits for its removal.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Batches of changes that become one publication.
const BATCHES_MAX: usize = 100;

/// What the table's server says that is dealt with before changes of routes are looked at again.
const HEARD_MAX: usize = 1_000;

/// Owner of the table of resources.
pub(crate) struct Publishing {
    publisher: Publisher,
    ads: Ads,
    feedback: mpsc::Receiver<Feedback>,
    scheduler: Scheduler,
}

impl Publishing {
    /// Must be called inside a tokio runtime.
    pub(crate) fn new(config: &Config, scheduler: Scheduler) -> Self {
        let (ads, feedback) = Ads::new(xds::Config {
            lag_after: config.lag_after,
            drain_grace: config.drain_grace,
            tailor: Some(tailor(&config.envoy)),
            max_stream_age: config.envoy_stream_age,
            on_demand: Some(ON_DEMAND),
            ..xds::Config::default()
        });
        Self { publisher: Publisher::new(config.envoy.clone()), ads, feedback, scheduler }
    }

    /// The server of the table; opened when everything that Envoys had before has been published.
    pub(crate) fn ads(&self) -> Ads {
        self.ads.clone()
    }

    /// Translates and publishes.
    pub(crate) fn publish(&mut self, changes: Vec<RouteChange>) {
        let publication = self.publisher.apply(changes, now());
        self.hand_over(publication);
    }

    fn hand_over(&mut self, publication: Publication) {
        if publication.is_empty() {
            return;
        }
        match self.ads.publish(publication.changes, publication.gated) {
            Ok(revision) => self.publisher.published(revision),
            // A set is announced before the route that uses it and removed after it, so this is a bug; Envoys keep
            // what they have.
            Err(dangling) => error!(%dangling, "resources refer to what is not there, they are not published"),
        }
    }

    /// Runs until the process stops.
    pub(crate) async fn run(
        mut self,
        mut changes: mpsc::UnboundedReceiver<Vec<RouteChange>>,
        stop: Stop,
    ) -> Result<(), Never> {
        let (mut batches, mut heard) = (Vec::new(), Vec::new());
        loop {
            let wait = self
                .publisher
                .due()
                .map_or(LONGEST_WAIT, |Time(due)| Duration::from_millis(due.saturating_sub(now().0)).min(LONGEST_WAIT));
            tokio::select! {
                // All arms are cancel-safe. Changes come first: what is heard of older ones is superseded by them.
                biased;
                () = stop.requested() => return Ok(()),
                count = changes.recv_many(&mut batches, BATCHES_MAX) => {
                    if count == 0 {
                        return Ok(());
                    }
                    let changes = batches.drain(..).flatten().collect();
                    self.publish(changes);
                }
                count = self.feedback.recv_many(&mut heard, HEARD_MAX) => {
                    if count == 0 {
                        return Ok(());
                    }
                    self.hear(heard.drain(..)).await;
                }
                () = tokio::time::sleep(wait) => {}
            }
            let expired = self.publisher.tick(now());
            self.hand_over(expired);
            for news in self.publisher.take_news() {
                self.tell(news).await;
            }
        }
    }

    /// Names that clients begin or cease to ask for one after the other are published together.
    async fn hear(&mut self, heard: impl Iterator<Item = Feedback>) {
        let mut demanded = Publication::default();
        for feedback in heard {
            match feedback {
                Feedback::Wanted { key } => demanded.extend(self.publisher.want(&key, now())),
                Feedback::Unwanted { key } => demanded.extend(self.publisher.unwant(&key, now())),
                heard @ (Feedback::Applied { .. }
                | Feedback::Released { .. }
                | Feedback::Rejected { .. }
                | Feedback::Refused { .. }
                | Feedback::Connected { .. }) => {
                    if let Some(news) = self.publisher.hear(heard, now()) {
                        self.tell(news).await;
                    }
                }
            }
        }
        self.hand_over(demanded);
    }

    async fn tell(&mut self, news: News) {
        let event = match news {
            News::Applied { name, generation } => Event::RouteApplied { name, generation },
            News::Released { name, generation } => Event::RouteReleased { name, generation },
            News::Rejected { name, generation, message } => {
                error!(%name, %message, "no envoy took a route");
                Event::RouteRejected { name, generation, message }
            }
            News::Refused { key, node, message } => {
                error!(%key, %node, %message, "a client refused a resource");
                return;
            }
            News::Connected { streams: 0 } => {
                warn!("no envoy is connected; models are available as soon as they are loaded");
                return;
            }
            News::Connected { streams } => {
                info!(streams, "envoys connected");
                return;
            }
        };
        self.scheduler.tell(event).await;
    }
}
