"""What makes data sets: painted birds and emoji drawings; `dmgan_train.data` reads them."""
