//! `rissole inspect --plan`: in which ways a bundle can be drawn from, and what memory each takes.

use rissole::generator::{Generator, Options, Plan, PlannedStage, Residency};
use rissole::network::Network;
use rissole::{Bundle, Error, Result};
use serde_json::json;

use crate::terminal::{Console, bytes};

/// Prints the plans, and which of them the budget of `options` leaves.
///
/// # Errors
/// As [`Generator::plans`]; [`Error::Budget`], after the table, where none is left.
pub fn show(bundle: &Bundle, options: &Options, console: &Console) -> Result<()> {
    let plans = Generator::plans(bundle, options)?;
    let budget = options.ram_budget.unwrap_or(u64::MAX);
    let taken = plans.iter().position(|plan| plan.needs() <= budget);
    let untiled = match plans.iter().all(|plan| plan.tile.is_none()) {
        // One tile shows whether there may be more.
        true => {
            let cut = Network::open(bundle, &bundle.manifest.networks.decoder)?.cut(usize::MAX);
            Some(cut.err().unwrap_or_else(|| "it would save nothing".into()))
        }
        false => None,
    };
    if console.json {
        let needs: Vec<u64> = plans.iter().map(Plan::needs).collect();
        console.print_json(&json!({
            "plans": plans, "needs": needs, "budget": options.ram_budget, "taken": taken, "untiled": untiled,
        }))?;
    } else {
        let heads =
            ["threads", "networks held", "tiles", "always", "sample: held + peak", "decode: held + peak", "needs"];
        console.print(line(&heads.map(String::from)))?;
        for (i, plan) in plans.iter().enumerate() {
            let mark = match (i, plan.needs()) {
                (i, _) if Some(i) == taken => "  taken",
                (_, needs) if needs > budget => "  over the budget",
                _ => "",
            };
            console.print(format_args!("{}{mark}", line(&cells(plan))))?;
        }
        if let Some(why) = untiled {
            console.print(format_args!("the decoder is not run in tiles: {why}"))?;
        }
    }
    match (taken, options.ram_budget, plans.iter().map(Plan::needs).min()) {
        (None, Some(budget), Some(needs)) => Err(Error::Budget { needs, budget }),
        _ => Ok(()),
    }
}

fn cells(plan: &Plan) -> [String; 7] {
    let held = match plan.residency {
        Residency::Together => "all together",
        Residency::StageByStage => "stage by stage",
    };
    let [sample, decode] =
        plan.stages.map(|PlannedStage { held, peak, .. }| format!("{} + {}", bytes(held), bytes(peak)));
    let tiles = plan.tile.map_or("none".into(), |side| format!("{side}×{side}"));
    [plan.threads.to_string(), held.into(), tiles, bytes(plan.base), sample, decode, bytes(plan.needs())]
}

fn line(cells: &[String; 7]) -> String {
    let [threads, held, tiles, base, sample, decode, needs] = cells;
    format!("{threads:>7}  {held:14}  {tiles:>9}  {base:>9}  {sample:>21}  {decode:>21}  {needs:>9}")
}
