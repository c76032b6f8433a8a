// AdamW (Loshchilov & Hutter 2019) with gradient scaling, then the weights' moving average. correct1 and correct2
// are the factors of bias correction.
extern "C" __global__ void adamw(unsigned n, float rate, float beta1, float beta2, float weight_decay, float correct1,
                                 float correct2, float grad_scale, float average_decay, const float* grad,
                                 float* value, float* m, float* v, float* average) {
    FOR_EACH(i, n) {
        float g = grad[i] * grad_scale;
        float first = beta1 * m[i] + (1.0f - beta1) * g;
        float second = beta2 * v[i] + (1.0f - beta2) * g * g;
        float update = first * correct1 / (sqrtf(second * correct2) + 1e-8f);
        float w = value[i];
        w -= rate * (update + weight_decay * w);
        m[i] = first;
        v[i] = second;
        value[i] = w;
        average[i] = average_decay * average[i] + (1.0f - average_decay) * w;
    }
}
