//! Sums of many tensors with few calls: small neighbours travel together, because a call costs its latency however
//! little it carries.

use super::Collective;
use crate::Result;
use candle_core::Tensor;

/// Elements of a bucket, 32 MiB: far above what latency costs, far below what gradients take.
pub const ELEMENTS: usize = 8 << 20;

/// Replaces every F32 tensor by its sum over the ranks. What travels together does not change the result.
///
/// # Errors
/// What the collective says.
pub fn sum(collective: &dyn Collective, tensors: &mut [&mut Tensor], elements: usize) -> Result<()> {
    let mut rest = tensors;
    while !rest.is_empty() {
        let (bucket, others) = rest.split_at_mut(bucket_length(rest, elements));
        match bucket {
            [tensor] => collective.sum_tensor(tensor)?,
            bucket => sum_together(collective, bucket)?,
        }
        rest = others;
    }
    Ok(())
}

/// How many of the first tensors fit into one bucket on one device; at least 1.
fn bucket_length(tensors: &[&mut Tensor], elements: usize) -> usize {
    let mut total = 0;
    let fits = |tensor: &&&mut Tensor| {
        total += tensor.elem_count();
        total <= elements && tensor.device().same_device(tensors[0].device())
    };
    tensors.iter().take_while(fits).count().max(1)
}

fn sum_together(collective: &dyn Collective, tensors: &mut [&mut Tensor]) -> Result<()> {
    let flat = tensors.iter().map(|tensor| tensor.flatten_all()).collect::<candle_core::Result<Vec<_>>>()?;
    let mut joined = Tensor::cat(&flat, 0)?;
    collective.sum_tensor(&mut joined)?;
    let mut start = 0;
    for tensor in tensors.iter_mut() {
        let part = joined.narrow(0, start, tensor.elem_count())?;
        start += tensor.elem_count();
        **tensor = part.reshape(tensor.shape())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use std::sync::Mutex;

    /// A second rank that always has the same values, and a list of what was asked.
    #[derive(Default)]
    struct Twin(Mutex<Vec<usize>>);

    impl Collective for Twin {
        fn sum_f32(&self, values: &mut [f32]) -> Result<()> {
            self.0.lock().unwrap().push(values.len());
            values.iter_mut().for_each(|value| *value *= 2.0);
            Ok(())
        }
        fn sum_f64(&self, _: &mut [f64]) -> Result<()> {
            Ok(())
        }
        fn broadcast_bytes(&self, _: &mut Vec<u8>) -> Result<()> {
            Ok(())
        }
        fn barrier(&self) -> Result<()> {
            Ok(())
        }
    }

    fn numbers(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn small_tensors_travel_together_and_large_ones_alone() {
        let tensor = |rows: usize| {
            let values = Tensor::arange(0f32, rows as f32 * 2.0, &Device::Cpu).unwrap();
            values.reshape((2, rows)).unwrap().t().unwrap()
        };
        let before: Vec<Tensor> = [2, 1, 20, 1, 3, 1].into_iter().map(tensor).collect();
        let mut after = before.clone();
        let twin = Twin::default();
        sum(&twin, &mut after.iter_mut().collect::<Vec<_>>(), 8).unwrap();
        assert_eq!(*twin.0.lock().unwrap(), [6, 40, 8, 2]);
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(before.dims(), after.dims());
            assert_eq!(numbers(&(before + before).unwrap()), numbers(after));
        }
    }

    #[test]
    fn nothing_is_no_call() {
        let twin = Twin::default();
        sum(&twin, &mut [], 8).unwrap();
        assert!(twin.0.lock().unwrap().is_empty());
    }

    #[test]
    fn tensors_that_share_memory_are_summed_once_each() {
        let shared = Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap();
        let (mut a, mut b) = (shared.clone(), shared.clone());
        sum(&Twin::default(), &mut [&mut a, &mut b], 2).unwrap();
        assert_eq!(
            [numbers(&a), numbers(&b), numbers(&shared)],
            [vec![2.0, 4.0], vec![2.0, 4.0], vec![1.0, 2.0]]
        );
    }
}
