//! What a step computed, added up over ranks, and whether its numbers are numbers.

use crate::Result;
use crate::distributed::World;
use crate::model::{self, Losses, Model};
use crate::monitor::ExpertLoad;
use candle_core::{DType, Tensor};

/// Sums the losses of all ranks, which are already divided by their number, and the loads of their experts.
pub(super) fn sum_losses(world: &World, losses: &mut Losses) -> Result<()> {
    if world.size == 1 {
        return Ok(());
    }
    let Losses { loss, cross_entropy, load_balance, router_z, experts, .. } = losses;
    let mut numbers = vec![*loss, *cross_entropy, *load_balance, *router_z];
    for load in experts.iter() {
        numbers.extend(load.counts.iter().map(|&count| count as f64));
        numbers.extend([load.dropped as f64, load.entropy]);
    }
    world.sum_f64(&mut numbers)?;
    let mut sums = numbers.into_iter();
    let mut next = || sums.next().unwrap_or_default();
    [loss, cross_entropy, load_balance, router_z].into_iter().for_each(|sum| *sum = next());
    for load in experts {
        load.counts.iter_mut().for_each(|count| *count = next() as u64);
        load.dropped = next() as u64;
        load.entropy = next();
    }
    Ok(())
}

/// Sums the gradients of all ranks.
pub(super) fn sum_gradients(world: &World, model: &Model) -> Result<()> {
    if world.size == 1 {
        return Ok(());
    }
    let mut totals: Vec<Tensor> = model.trained().filter_map(|p| p.gradient.total()).collect();
    world.sum_tensors(&mut totals.iter_mut().collect::<Vec<_>>())?;
    model.trained().zip(totals).for_each(|(parameter, total)| parameter.gradient.replace(total));
    Ok(())
}

pub(super) fn finite(tensor: &Tensor) -> bool {
    let sum = tensor
        .abs()
        .and_then(|t| t.sum_all())
        .and_then(|t| t.to_dtype(DType::F64))
        .and_then(|t| t.to_scalar());
    sum.is_ok_and(f64::is_finite)
}

pub(super) fn load_of(load: &model::ExpertLoad) -> ExpertLoad {
    ExpertLoad {
        layer: load.layer,
        counts: load.counts.clone(),
        dropped: load.dropped,
        entropy: load.entropy,
    }
}
