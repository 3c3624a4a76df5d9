//! Envoys: the verbs of `switchyard envoy …`. Several streams may have one node id; each is a line of its own.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use serde::Serialize;
use xds::{ClientStatus, Delivery, Told};

use crate::address::{self, Address, Place, Target};
use crate::client::xds as client;
use crate::command::{Format, FormatFlag, Installation, variable};
use crate::failure::Error;
use crate::output::table::{one_line, table};
use crate::output::{self, Output};
use crate::verb;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  switchyard envoy diff envoy-0")]
pub(crate) struct Group {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List all Envoys that are connected.
    #[command(after_help = "Example:\n  switchyard envoy list")]
    List(Flags),
    /// Show what an Envoy has of each kind.
    #[command(after_help = "Example:\n  switchyard envoy status envoy-0")]
    Status(Named),
    /// Show what an Envoy does not have as it is now, and why.
    #[command(after_help = "Nothing is shown if it has everything.

Example:
  switchyard envoy diff envoy-0")]
    Diff(Named),
}

#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    output: FormatFlag,
    /// Address of the scheduler's port for Envoys [else: endpoints.json in --dir, $SWITCHYARD_XDS_HOST, 127.0.0.1:9002]
    #[arg(long, value_name = "HOST:PORT")]
    xds_host: Option<String>,
    #[command(flatten)]
    installation: Installation,
}

#[derive(Debug, Args)]
pub(crate) struct Named {
    /// The node id of its bootstrap
    node: String,
    #[command(flatten)]
    flags: Flags,
}

/// How many resources are where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Counts {
    resources: usize,
    waiting: usize,
    sent: usize,
    refused: usize,
}

#[derive(Debug, Serialize)]
struct Summary {
    node: String,
    #[serde(flatten)]
    counts: Counts,
}

#[derive(Debug, Serialize)]
struct OfKind {
    kind: String,
    #[serde(flatten)]
    counts: Counts,
}

#[derive(Debug, Serialize)]
struct Difference {
    kind: String,
    name: String,
    version: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Flags {
    fn address(&self) -> Result<Address, address::Error> {
        address::find(Target::Xds, self.xds_host.as_deref(), Place::Installation(&self.installation.dir), variable)
    }
}

pub(crate) async fn run(verb: Verb, output: &mut Output) -> Result<(), Error> {
    match verb {
        Verb::List(flags) => {
            // Envoys may be many, and what is in them, too.
            let summary = |status: ClientStatus| Summary { counts: counts(&status.resources), node: status.node };
            let summaries = client::statuses(&flags.address()?, None, summary).await?;
            let rows = summaries.iter().map(|summary| cells(&summary.node, summary.counts));
            show(flags.output.format, &summaries, ["envoy", "resources", "waiting", "sent", "refused"], rows, output)
        }
        Verb::Status(named) => {
            let of_kind = |(kind, told): (String, Vec<&Told>)| OfKind { kind, counts: counts(told) };
            let kinds: Vec<OfKind> = by_kind(&known(&named).await?).into_iter().map(of_kind).collect();
            let rows = kinds.iter().map(|of| cells(&of.kind, of.counts));
            show(named.flags.output.format, &kinds, ["kind", "resources", "waiting", "sent", "refused"], rows, output)
        }
        Verb::Diff(named) => {
            let statuses = known(&named).await?;
            let differences: Vec<Difference> =
                statuses.iter().flat_map(|status| &status.resources).filter_map(difference).collect();
            let rows = differences.iter().map(|of| {
                let version = if of.version.is_empty() { "gone" } else { &of.version };
                let cells = [&of.kind, &of.name, version, of.state, of.error.as_deref().unwrap_or_default()];
                cells.map(one_line)
            });
            let is_text = matches!(named.flags.output.format, Format::Text);
            if is_text && differences.is_empty() {
                return Ok(());
            }
            let header = ["kind", "name", "version", "state", "error"];
            show(named.flags.output.format, &differences, header, rows, output)
        }
    }
}

fn show<T: Serialize, const N: usize>(
    format: Format,
    all: &[T],
    header: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
    output: &mut Output,
) -> Result<(), Error> {
    let text = match format {
        Format::Json => output::as_json(&all),
        Format::Text => table(header, &rows.collect::<Vec<_>>()),
    };
    Ok(output.line(&text)?)
}

/// The streams of one Envoy.
async fn known(named: &Named) -> Result<Vec<ClientStatus>, Error> {
    let address = named.flags.address()?;
    let statuses = client::statuses(&address, Some(&named.node), |status| status).await?;
    if statuses.is_empty() {
        let connected = client::statuses(&address, None, |status| status.node).await?;
        return Err(verb::Error::NoEnvoy { node: named.node.clone(), connected }.into());
    }
    Ok(statuses)
}

fn counts<'a>(told: impl IntoIterator<Item = &'a Told>) -> Counts {
    told.into_iter().fold(Counts::default(), |counts, told| {
        let Counts { resources, waiting, sent, refused } = counts;
        let is = |wanted: bool| usize::from(wanted);
        Counts {
            resources: resources + is(!told.version.is_empty()),
            waiting: waiting + is(told.delivery == Delivery::Waiting),
            sent: sent + is(told.delivery == Delivery::Sent),
            refused: refused + is(matches!(told.delivery, Delivery::Refused(_))),
        }
    })
}

fn cells(name: &str, counts: Counts) -> [String; 5] {
    let Counts { resources, waiting, sent, refused } = counts;
    [one_line(name), resources.to_string(), waiting.to_string(), sent.to_string(), refused.to_string()]
}

fn kind_of(told: &Told) -> String {
    told.kind.map_or_else(|| "other".to_owned(), |kind| format!("{kind:?}"))
}

fn by_kind(statuses: &[ClientStatus]) -> BTreeMap<String, Vec<&Told>> {
    let mut kinds: BTreeMap<String, Vec<&Told>> = BTreeMap::new();
    for told in statuses.iter().flat_map(|status| &status.resources) {
        kinds.entry(kind_of(told)).or_default().push(told);
    }
    kinds
}

/// What is not as it should be.
fn difference(told: &Told) -> Option<Difference> {
    let (state, error) = match &told.delivery {
        Delivery::Applied => return None,
        Delivery::Waiting => ("waiting", None),
        Delivery::Sent => ("sent", None),
        Delivery::Refused(error) => ("refused", error.as_deref().map(str::to_owned)),
    };
    Some(Difference { kind: kind_of(told), name: told.name.clone(), version: told.version.clone(), state, error })
}

#[cfg(test)]
mod tests {
    use xds::{Delivery, Kind, Told};

    use super::{Counts, counts, difference};

    #[test]
    fn what_is_not_applied_is_counted_and_shown() {
        let told = |version: &str, delivery| Told {
            kind: Some(Kind::ScopedRoute),
            name: "iris".to_owned(),
            version: version.to_owned(),
            delivery,
        };
        let refused = told("1", Delivery::Refused(Some("no such cluster".into())));
        let all = [
            told("1", Delivery::Applied),
            told("", Delivery::Applied),
            told("2", Delivery::Waiting),
            told("", Delivery::Sent),
            refused.clone(),
        ];
        assert_eq!(counts(&all), Counts { resources: 3, waiting: 1, sent: 1, refused: 1 });
        assert!(difference(&all[0]).is_none());
        let shown = difference(&refused).expect("a difference");
        assert_eq!(
            (shown.kind.as_str(), shown.state, shown.error.as_deref()),
            ("ScopedRoute", "refused", Some("no such cluster"))
        );
    }
}
