//! Takes what follows a convolution or a normalisation into it.

use std::mem;

use super::graph::{Graph, Id, Kind};

/// Fuses in place; nodes taken up become [`Kind::Gone`]. A fused node stands where the last of its parts stood, so
/// that everything it reads is there.
pub(super) fn fuse(graph: &mut Graph, output: Id) {
    let mut uses = vec![0usize; graph.nodes.len()];
    uses[output] += 1;
    graph.nodes.iter().flat_map(|node| node.reads()).for_each(|id| uses[id] += 1);
    for id in 0..graph.nodes.len() {
        let inputs = &graph.nodes[id].inputs;
        let once = |&id: &Id| uses[id] == 1;
        let taken = match (&graph.nodes[id].kind, &inputs[..]) {
            (Kind::Silu, &[x]) => Some(x).filter(once).filter(|&x| takes_silu(&graph.nodes[x].kind)),
            (Kind::AddVector, &[x, _]) => Some(x).filter(once).filter(|&x| takes_vector(&graph.nodes[x].kind)),
            // The later of the two, if it can be, so that nothing is put off.
            (Kind::Add, &[a, b]) => {
                let can = |&id: &Id| a != b && once(&id) && takes_residual(&graph.nodes[id].kind);
                Some(a.max(b)).filter(can).or(Some(a.min(b)).filter(can))
            }
            _ => None,
        };
        if let Some(taken) = taken {
            take(graph, id, taken);
        }
    }
}

/// Puts the node `taken` in the place of its user `id`, which it does the work of.
fn take(graph: &mut Graph, id: Id, taken: Id) {
    let inputs = mem::take(&mut graph.nodes[taken].inputs);
    let mut kind = mem::replace(&mut graph.nodes[taken].kind, Kind::Gone);
    let user = &graph.nodes[id];
    let other = user.inputs.iter().copied().find(|&input| input != taken);
    match (&mut kind, &user.kind) {
        (Kind::Conv(conv), Kind::AddVector) => conv.vector = other,
        (Kind::Conv(conv), Kind::Add) => conv.residual = other,
        (Kind::Conv(conv), _) => conv.silu = true,
        (Kind::GroupNorm { silu, .. }, _) => *silu = true,
        _ => {}
    }
    (graph.nodes[id].kind, graph.nodes[id].inputs) = (kind, inputs);
}

fn takes_silu(kind: &Kind) -> bool {
    match kind {
        Kind::Conv(conv) => !conv.silu,
        Kind::GroupNorm { silu, .. } => !silu,
        _ => false,
    }
}

fn takes_vector(kind: &Kind) -> bool {
    matches!(kind, Kind::Conv(conv) if conv.vector.is_none() && !conv.silu)
}

fn takes_residual(kind: &Kind) -> bool {
    matches!(kind, Kind::Conv(conv) if conv.residual.is_none() && !conv.silu)
}
