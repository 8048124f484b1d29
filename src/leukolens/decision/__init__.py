"""From scores on the validation side to an answer or a refusal: temperature, threshold, prediction sets, outliers."""
